// Keeps the page, so that it works without a network. The name of the cache changes with the files.
const OWN = `lightweight ${self.registration.scope} `, NAME = OWN + '{{ version }}'
const FILES = ['./', 'index.html', 'ort.mjs', 'ort.wasm', 'model.onnx', 'page.json']
const clear = names => Promise.all(names.filter(name => name.startsWith(OWN) && name !== NAME).map(name => caches.delete(name)))
self.addEventListener('install', event => event.waitUntil(caches.open(NAME).then(cache => cache.addAll(FILES)).then(() => self.skipWaiting())))
self.addEventListener('activate', event => event.waitUntil(caches.keys().then(clear).then(() => self.clients.claim())))
self.addEventListener('fetch', event => event.respondWith(caches.open(NAME).then(async cache =>
  await cache.match(event.request, { ignoreSearch: true }) ?? fetch(event.request))))
