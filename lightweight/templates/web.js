const TEXT = {
  loading: 'Loading …', notSure: 'not sure', strange: 'strange',
  broken: name => `${name}: this browser cannot read it as a picture.`,
  huge: (name, n) => `${name}: ${n} megapixels; at most 50 are read. Scale it down.`,
  notOnnx: name => `${name}: this is no ONNX file.`,
  notOurs: name => `${name}: it holds no metadata of lightweight; write the file with lightweight export.`,
  otherVersion: (name, v) => `${name}: file version ${v}; this page reads version 1.`,
  otherInput: name => `${name}: its input is not uint8 images of the size that its metadata say; export it again.`,
  noCamera: 'No camera was found.', refused: 'The camera was refused; allow it in the settings of the browser.',
  insecure: 'The camera needs https or localhost.', busy: 'The camera is in use by another program.',
  took: (ms, fps) => `${ms.toFixed(1)} ms` + (fps ? `, ${fps.toFixed(0)} pictures a second` : ''),
  freeze: 'Freeze', go: 'Continue', camera: 'Camera', stop: 'Stop camera',
}
const GREY = [124, 116, 104]                       // the mean colour of ImageNet
const MOST = 50, MEMORY = 0.7, GRID = 7           // megapixels; weight of earlier camera pictures; squares of the heat map
const $ = id => document.getElementById(id)
const element = (tag, fields, ...inside) => { const made = Object.assign(document.createElement(tag), fields); made.append(...inside); return made }
const percent = p => `${(100*p).toFixed(0)} %`
const say = text => { $('message').textContent = text }
const context = canvas => canvas.getContext('2d', { willReadFrequently: true })
let ort, model, shown, results = [], stream

// Files: inside the page (single file) or beside it
async function load(name) {
  const inside = $(name)
  if (!inside) return new Uint8Array(await (await fetch(name)).arrayBuffer())
  return Uint8Array.from(atob(inside.textContent), c => c.charCodeAt(0))
}
const encodeUrl = (bytes, type) => URL.createObjectURL(new Blob([bytes], { type }))
async function loadRuntime() {
  const inside = $('ort.mjs')
  ort = await import(inside ? encodeUrl(await load('ort.mjs'), 'text/javascript') : './ort.mjs')
  ort.env.wasm.numThreads = 1
  ort.env.wasm.wasmBinary = (await load('ort.wasm')).buffer
}

// Metadata: field 14 of ONNX's ModelProto, a map of strings, which the JavaScript API of ONNX Runtime does not return
function readFields(bytes, onField) {
  let at = 0
  const number = () => {
    let value = 0, scale = 1, byte
    do { byte = bytes[at++]; value += (byte & 127)*scale; scale *= 128 } while (byte > 127)
    return value
  }
  while (at < bytes.length) {
    const tag = number(), kind = tag % 8
    if (kind === 0) number()
    else if (kind === 1 || kind === 5) at += kind === 1 ? 8 : 4
    else if (kind === 2) { const n = number(); onField((tag - kind)/8, bytes.subarray(at, at += n)) }
    else throw new Error('no protobuf')
    if (!(at <= bytes.length)) throw new Error('no protobuf')
  }
}
function readMetadata(bytes) {
  const found = {}, text = new TextDecoder()
  readFields(bytes, (field, value) => {
    const pair = {}
    if (field === 14) { readFields(value, (i, v) => { pair[i] = text.decode(v) }); found[pair[1]] = pair[2] }
  })
  return found
}
async function openModel(name, bytes) {
  let info
  try { info = readMetadata(bytes) } catch { throw TEXT.notOnnx(name) }
  try { info = JSON.parse(info.lightweight) } catch { throw Object.keys(info).length || bytes.length > 64 ? TEXT.notOurs(name) : TEXT.notOnnx(name) }
  if (!(Array.isArray(info?.classes) && info.img_size > 0 && info.resize)) throw TEXT.notOurs(name)
  if ((info.version ?? 1) !== 1) throw TEXT.otherVersion(name, info.version)
  let session
  try { session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] }) } catch { throw TEXT.notOnnx(name) }
  const opened = { name, info, session }
  try { await ask(opened, new Uint8Array(info.img_size**2*3)) } catch { throw TEXT.otherInput(name) }
  return opened
}
async function ask({ session, info }, pixels) { // n images of img_size → [{ probabilities, strangeness }]
  const size = info.img_size, n = pixels.length/(size*size*3), classes = info.classes.length
  const images = new ort.Tensor('uint8', pixels, [n, size, size, 3])
  const found = await session.run({ images })
  return Array.from({ length: n }, (_, i) => ({
    probabilities: Array.from(found.probabilities.data.subarray(i*classes, (i + 1)*classes)),
    strangeness: found.strangeness?.data[i] ?? null }))
}
function decide({ info }, { probabilities, strangeness }) { // as Predictor.decide
  const best = probabilities.indexOf(Math.max(...probabilities)), label = info.classes[best], limits = info.calibration
  const found = { label, probability: probabilities[best], answer: label, strangeness, probabilities }
  if (!limits) return found
  const threshold = limits.thresholds[label]
  if (limits.strange !== null && strangeness !== null && !(strangeness <= limits.strange)) found.answer = TEXT.strange
  else if (threshold === null || found.probability < threshold) found.answer = TEXT.notSure
  return found
}

// Pixels: the arithmetic of OpenCV as in lightweight.data.image (area averaging where a side shrinks, linear where it grows)
function weigh(from, to, area) { // for each output: the first input, and weights, which are integers from 0 to 2048 for linear
  const scale = from/to, indices = Array.from({ length: to }, (_, i) => i)
  if (!area) return indices.map(i => {
    const at = Math.min(Math.max((i + .5)*scale - .5, 0), from - 1), first = Math.min(Math.floor(at), Math.max(from - 2, 0))
    return from === 1 ? [0, [2048]] : [first, [1 - at + first, at - first].map(w => Math.round(2048*w))]
  })
  return indices.map(i => {
    const start = i*scale, end = Math.min(start + scale, from), first = Math.floor(start + 1e-9), n = Math.min(Math.ceil(end - 1e-9), from) - first
    return [first, Array.from({ length: n }, (_, k) => (Math.min(end, first + k + 1) - Math.max(start, first + k))/(end - start))]
  })
}
function scaleSides({ data, width, height }, w, h, area) {
  const rows = weigh(height, h, area), columns = weigh(width, w, area), half = new Float32Array(height*w*3)
  const out = new Uint8ClampedArray(w*h*3), halves = width === 2*w && height === 2*h       // the array rounds ties to even
  for (let y = 0; y < height; y++) for (let x = 0; x < w; x++) {
    const [first, weights] = columns[x]
    for (let c = 0; c < 3; c++) {
      let sum = 0
      for (let k = 0; k < weights.length; k++) sum += weights[k]*data[(y*width + first + k)*3 + c]
      half[(y*w + x)*3 + c] = sum
    }
  }
  for (let y = 0; y < h; y++) {
    const [first, weights] = rows[y]
    for (let i = 0; i < w*3; i++) {
      let sum = 0
      for (let k = 0; k < weights.length; k++) {
        const value = half[(first + k)*w*3 + i]
        sum += area ? weights[k]*value : (weights[k]*(value >> 4)) >> 16
      }
      out[y*w*3 + i] = !area ? (sum + 2) >> 2 : halves ? Math.floor(sum + .5) : sum
    }
  }
  return { data: out, width: w, height: h }
}
function scalePixels(image, w, h) {
  const smaller = [Math.min(w, image.width), Math.min(h, image.height)]
  if (smaller[0] < image.width || smaller[1] < image.height) image = scaleSides(image, ...smaller, true)
  return image.width === w && image.height === h ? image : scaleSides(image, w, h, false)
}
function cutPixels(image, left, top, width, height, fill) { // outside: a colour, or the nearest pixels
  const data = new Uint8ClampedArray(width*height*3), limit = (v, n) => Math.min(Math.max(v, 0), n - 1)
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) {
    const [u, v] = [limit(x + left, image.width), limit(y + top, image.height)], inside = u === x + left && v === y + top
    data[(y*width + x)*3 + c] = inside || !fill ? image.data[(v*image.width + u)*3 + c] : fill[c]
  }
  return { data, width, height }
}
function resizeImage(image, size, method) {
  const { width, height } = image, short = Math.min(width, height), long = Math.max(width, height)
  if (method === 'draft') {
    const n = [8, 4, 2].find(n => n*size <= short) ?? 1
    const [w, h] = [Math.ceil(width/n), Math.ceil(height/n)]
    if (n > 1) image = scalePixels(cutPixels(image, 0, 0, w*n, h*n), w, h)
  }
  if (method === 'crop') image = cutPixels(image, Math.floor(Math.max(0, width - height)/2), Math.floor(Math.max(0, height - width)/2), short, short)
  if (method === 'pad') image = cutPixels(image, -Math.floor((long - width)/2), -Math.floor((long - height)/2), long, long, GREY)
  return scalePixels(image, size, size)
}
function readPixels(source, width, height) { // a bitmap or a video → RGB on white
  const canvas = new OffscreenCanvas(width, height), pen = context(canvas)
  pen.fillStyle = '#fff'
  pen.fillRect(0, 0, width, height)
  pen.drawImage(source, 0, 0)
  const rgba = pen.getImageData(0, 0, width, height).data, data = new Uint8ClampedArray(width*height*3)
  for (let i = 0, k = 0; i < rgba.length; i += 4) { data[k++] = rgba[i]; data[k++] = rgba[i + 1]; data[k++] = rgba[i + 2] }
  return { data, width, height, canvas }
}
async function readPhoto(file) {
  let bitmap
  try { bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none' }) } catch { throw TEXT.broken(file.name) }
  const n = bitmap.width*bitmap.height/1e6
  if (n > MOST) throw TEXT.huge(file.name, Math.round(n))
  return readPixels(bitmap, bitmap.width, bitmap.height)
}
async function classify(image) {
  const { img_size, resize } = model.info, pixels = new Uint8Array(resizeImage(image, img_size, resize).data)
  const start = performance.now(), [found] = await ask(model, pixels)
  return { ...decide(model, found), ms: performance.now() - start, pixels }
}

// What is shown
function drawSquare(image) {
  const canvas = $('picture'), pen = context(canvas), scale = 320/Math.max(image.width, image.height)
  pen.clearRect(0, 0, 320, 320)
  pen.drawImage(image.canvas, (320 - image.width*scale)/2, (320 - image.height*scale)/2, image.width*scale, image.height*scale)
}
function show(found, image, fps) {
  $('result').hidden = $('look').hidden = false
  $('map').hidden = true
  if (image) drawSquare(image)
  shown = found
  const unsure = found.answer === found.label ? '' : ` (most likely ${found.label})`
  $('answer').textContent = found.answer + unsure
  $('detail').textContent = `${percent(found.probability)}, ${TEXT.took(found.ms, fps)}`
  const body = $('bars').tBodies[0]
  body.replaceChildren(...model.info.classes.map((name, i) => {
    const p = found.probabilities[i], meter = element('meter', { value: p, ariaLabel: name })
    return element('tr', {}, element('th', { scope: 'row' }, name), element('td', {}, meter), element('td', {}, percent(p)))
  }))
}
function addRow(name, found, image) {
  results.push({ name, ...found })
  $('list').hidden = $('csv').hidden = false
  const small = readThumb(image), pick = element('button', { type: 'button', onclick: () => show(found, small) }, name)
  const cells = [pick, found.answer, percent(found.probability), found.ms.toFixed(1)]
  $('rows').append(element('tr', {}, ...cells.map(v => element('td', {}, v))))
}
function readThumb({ canvas, width, height }) {
  const scale = Math.min(1, 320/Math.max(width, height)), w = Math.max(1, Math.round(width*scale)), h = Math.max(1, Math.round(height*scale))
  const small = new OffscreenCanvas(w, h)
  context(small).drawImage(canvas, 0, 0, w, h)
  return { canvas: small, width: w, height: h }
}
async function drawMap() { // how much the probability of the answer falls when a square of the picture is grey
  const size = model.info.img_size, step = size/GRID, n = shown.pixels.length, all = new Uint8Array(n*GRID*GRID)
  for (let k = 0; k < GRID*GRID; k++) {
    all.set(shown.pixels, k*n)
    const [top, left] = [Math.floor(k/GRID)*step, k % GRID*step].map(Math.round)
    for (let y = top; y < Math.min(size, top + step); y++) for (let x = left; x < Math.min(size, left + step); x++)
      all.set(GREY, k*n + (y*size + x)*3)
  }
  const best = shown.probabilities.indexOf(shown.probability)
  const falls = (await ask(model, all)).map(f => Math.max(0, shown.probability - f.probabilities[best])), most = Math.max(...falls, .01)
  const canvas = $('map'), pen = context(canvas), side = 320/GRID
  pen.clearRect(0, 0, 320, 320)
  falls.forEach((fall, k) => {
    pen.fillStyle = `rgb(255 80 0 / ${.7*fall/most})`
    pen.fillRect(k % GRID*side, Math.floor(k/GRID)*side, side, side)
  })
  canvas.hidden = false
}
function saveCsv() { // columns as in lightweight predict
  const calibrated = 'calibration' in model.info, quote = v => /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v
  const head = ['path', 'label', 'probability', ...(calibrated ? ['answer', 'strangeness'] : []), ...model.info.classes.map(c => `p_${c}`)]
  const lines = results.map(r => [r.name, r.label, r.probability.toFixed(6), ...(calibrated ? [r.answer, r.strangeness?.toFixed(6) ?? ''] : []),
                                  ...r.probabilities.map(p => p.toFixed(6))])
  const text = [head, ...lines].map(line => line.map(quote).join(',')).join('\n') + '\n'
  element('a', { href: encodeUrl(text, 'text/csv'), download: 'predictions.csv' }).click()
}
function describe({ name, info }, card = {}) {
  const { purity, confidence, thresholds } = info.calibration ?? {}
  const promised = thresholds && Object.keys(thresholds).filter(c => thresholds[c] !== null)
  const promise = purity && `at least ${100*purity} % of what is accepted is right, with ${100*confidence} % confidence: ` +
    (promised.join(', ') || 'no class')
  $('classes').textContent = info.classes.join(', ')
  const facts = { File: name, Network: `${info.name}, ${info.parameters?.toLocaleString('en')} parameters, ${info.img_size} px`,
                  'Promised purity': promise, ...card, Licence: info.licence, Checkpoint: info.checkpoint }
  const told = Object.entries(facts).filter(([, v]) => v)
  $('facts').replaceChildren(...told.flatMap(([name, v]) => [element('dt', {}, name), element('dd', {}, v)]))
}

// Input
async function take(files) {
  say('')
  for (const file of files) {
    try {
      if (/\.onnx$/i.test(file.name)) await swap(file.name, new Uint8Array(await file.arrayBuffer()))
      else {
        const image = await readPhoto(file), found = await classify(image)
        show(found, image)
        addRow(file.name, found, image)
      }
    } catch (fault) { say(typeof fault === 'string' ? fault : `${file.name}: ${fault}`) }
  }
}
async function swap(name, bytes, card) {
  model = await openModel(name, bytes)
  results = []
  $('rows').replaceChildren()
  $('result').hidden = $('list').hidden = $('look').hidden = $('csv').hidden = true
  describe(model, card)
}
async function watch() {
  const video = element('video', { srcObject: stream, muted: true, playsInline: true })
  await video.play()
  let mean, last = performance.now(), fps = 0
  while (stream) {
    if (!$('freeze').hasAttribute('data-frozen') && video.videoWidth) {
      const image = readPixels(video, video.videoWidth, video.videoHeight), found = await classify(image), now = performance.now()
      mean = mean ? mean.map((m, i) => MEMORY*m + (1 - MEMORY)*found.probabilities[i]) : found.probabilities
      fps = .9*fps + .1*1000/Math.max(1, now - last)
      last = now
      if (stream) show({ ...found, ...decide(model, { ...found, probabilities: mean }) }, image, fps)
    }
    await new Promise(requestAnimationFrame)
  }
}
async function toggleCamera() {
  say('')
  if (stream) {
    stream.getTracks().forEach(track => track.stop())
    stream = undefined
  } else if (!navigator.mediaDevices) return say(TEXT.insecure)
  else {
    try { stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } }) } catch (fault) {
      return say(fault.name === 'NotAllowedError' ? TEXT.refused : fault.name === 'NotReadableError' ? TEXT.busy : TEXT.noCamera)
    }
    watch()
  }
  $('freeze').hidden = !stream
  $('freeze').removeAttribute('data-frozen')
  $('freeze').textContent = TEXT.freeze
  $('camera').textContent = stream ? TEXT.stop : TEXT.camera
}
function toggleFreeze() {
  const frozen = $('freeze').toggleAttribute('data-frozen')
  $('freeze').textContent = frozen ? TEXT.go : TEXT.freeze
}

say(TEXT.loading)
await loadRuntime()
const own = JSON.parse(new TextDecoder().decode(await load('page.json')))
await swap(own.name, await load('model.onnx'), own.card)
say('')
$('files').addEventListener('change', async () => { await take([...$('files').files]); $('files').value = '' })
document.addEventListener('paste', event => take([...event.clipboardData.files]))
document.addEventListener('dragover', event => { event.preventDefault(); $('drop').classList.add('over') })
document.addEventListener('dragleave', () => $('drop').classList.remove('over'))
document.addEventListener('drop', event => { event.preventDefault(); $('drop').classList.remove('over'); take([...event.dataTransfer.files]) })
for (const [id, act] of Object.entries({ camera: toggleCamera, freeze: toggleFreeze, look: drawMap, csv: saveCsv })) $(id).addEventListener('click', act)
if (!$('model.onnx') && 'serviceWorker' in navigator) navigator.serviceWorker.register('worker.js')
document.body.dataset.ready = 'yes'
