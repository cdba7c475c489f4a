// Keeps the files of the page, also for visits without a network. The name of the cache changes with the files.
const OWN = `lightweight ${self.registration.scope} `, NAME = OWN + '{{ version }}'
const FILES = ['./', 'ort.mjs', 'ort.wasm', 'model.onnx', 'page.json'].map(name => new Request(name, { cache: 'reload' }))
const clear = names => Promise.all(names.filter(name => name.startsWith(OWN) && name !== NAME).map(name => caches.delete(name)))
const find = name => caches.open(NAME).then(cache => cache.match(name, { ignoreSearch: true }))
const answer = async request => request.mode === 'navigate' ? fetch(request).catch(async fault => await find('./') ?? Promise.reject(fault)) : await find(request) ?? fetch(request)
self.addEventListener('install', event => event.waitUntil(caches.open(NAME).then(cache => cache.addAll(FILES)).then(() => self.skipWaiting())))
self.addEventListener('activate', event => event.waitUntil(caches.keys().then(clear).then(() => self.clients.claim())))
self.addEventListener('fetch', event => event.respondWith(answer(event.request)))
