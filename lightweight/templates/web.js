const TEXT = {
  title: 'Classify photos', privacy: 'Runs on this device: no picture leaves it.', choose: 'Choose pictures, drop them here, or paste one.', camera: 'Camera',
  stop: 'Stop camera', freeze: 'Freeze', go: 'Continue', look: 'Where it looked', csv: 'Save as CSV', bars: 'Probability of each class', picture: 'Picture',
  answer: 'Answer', probability: 'Probability', ms: 'ms', about: 'About this file', loading: 'Loading …', looking: 'Computing …',
  noServer: 'Open this page through a server, or make it with --single.', missing: name => `${name} could not be loaded.`,
  broken: name => `${name}: this browser cannot read it as a picture.`, fails: (name, fault) => `${name}: ${fault}`,
  huge: (name, n) => `${name}: ${n} megapixels; at most 50 are read. Scale it down.`, notOnnx: name => `${name}: this is not an ONNX file.`,
  cannotOpen: name => `${name}: ONNX Runtime cannot open it; export it again.`,
  notOurs: name => `${name}: it holds no metadata of lightweight; write the file with lightweight export.`,
  badLimits: name => `${name}: its thresholds are not for its classes and its checkpoint; run lightweight calibrate again.`,
  otherVersion: (name, v) => `${name}: file version ${v}; this page reads version 1.`,
  otherInput: name => `${name}: its input or output is not what its metadata say; export it again.`, noCamera: 'No camera was found.',
  refused: 'The camera was refused; allow it in the settings of the browser.', insecure: 'The camera needs https or localhost.',
  busy: 'The camera is in use by another program.', lost: 'The camera has stopped.', notSure: 'not sure', strange: 'strange',
  likely: (answer, label) => `${answer} (most likely ${label})`, percent: p => `${(100*p).toFixed(0)} %`,
  took: (ms, fps) => `${ms.toFixed(1)} ms` + (fps ? `, ${fps.toFixed(0)} pictures a second` : ''), file: 'File', network: 'Network', licence: 'Licence',
  size: (name, n, px) => `${name}, ${n?.toLocaleString('en')} parameters, ${px} px`, promised: 'Promised purity', checkpoint: 'Checkpoint',
  promise: (purity, confidence, classes) => `at least ${purity} % of what is accepted is right, with ${confidence} % confidence: ${classes || 'no class'}`,
}
const GREY = [124, 116, 104], MOST = 50, MEMORY = 0.7, GRID = 7 // mean of ImageNet; megapixels; weight of earlier camera pictures; squares of the map
const $ = id => document.getElementById(id)
const element = (tag, fields, ...inside) => { const made = Object.assign(document.createElement(tag), fields); made.append(...inside); return made }
const say = text => { $('message').textContent = text }
const context = canvas => canvas.getContext('2d', { willReadFrequently: true })
const isFrozen = () => $('freeze').hasAttribute('data-frozen')
let ort, model, shown, drawn, frame, results = [], stream
// Files: inside the page (single file) or beside it
async function load(name) {
  const inside = $(name)
  if (inside) return Uint8Array.from(atob(inside.textContent), c => c.charCodeAt(0))
  const found = await fetch(name).catch(() => ({}))
  if (!found.ok) throw TEXT.missing(name)
  return new Uint8Array(await found.arrayBuffer())
}
const encodeUrl = (bytes, type) => URL.createObjectURL(new Blob([bytes], { type }))
async function loadRuntime() {
  ort = await import($('ort.mjs') ? encodeUrl(await load('ort.mjs'), 'text/javascript') : './ort.mjs')
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
  const named = Array.isArray(info?.classes) && info.classes.every((c, i, all) => typeof c === 'string' && all.indexOf(c) === i)
  if (!(named && info.img_size > 0 && info.img_size <= 4096 && ['squish', 'pad', 'crop', 'draft'].includes(info.resize))) throw TEXT.notOurs(name)
  if ((info.version ?? 1) !== 1) throw TEXT.otherVersion(name, info.version)
  if ('calibration' in info && !isCalibrated(info)) throw TEXT.badLimits(name)
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] }).catch(() => { throw TEXT.cannotOpen(name) })
  const opened = { name, info, session }, blank = new Uint8Array(2*info.img_size**2*3)
  const sound = await ask(opened, blank).then(([one]) => Math.abs(one.probabilities.reduce((a, b) => a + b) - 1) < .01, () => false)
  if (sound) return opened
  session.release()
  throw TEXT.otherInput(name)
}
function isCalibrated({ calibration, checkpoint, classes }) { // for these classes and this checkpoint
  const limits = calibration?.thresholds, isNumber = v => v === null || Number.isFinite(v)
  return limits && calibration.checkpoint === checkpoint && isNumber(calibration.strange) &&
    Object.keys(limits).sort().join() === [...classes].sort().join() && Object.values(limits).every(isNumber)
}
async function ask({ name, session, info }, pixels) { // n images of img_size → [{ probabilities, strangeness }]
  const size = info.img_size, n = pixels.length/(size*size*3), classes = info.classes.length
  const images = new ort.Tensor('uint8', pixels, [n, size, size, 3])
  const { probabilities: { data }, strangeness } = await session.run({ images })
  if (data.length !== n*classes) throw TEXT.otherInput(name)
  return Array.from({ length: n }, (_, i) => ({ probabilities: [...data.subarray(i*classes, (i + 1)*classes)], strangeness: strangeness?.data[i] ?? null }))
}
const pickBest = values => values.reduce((best, v, i) => v > values[best] ? i : best, 0)
function decide({ info }, { probabilities, strangeness }) { // as Predictor.decide
  const best = pickBest(probabilities), label = info.classes[best], limits = info.calibration
  const found = { label, probability: probabilities[best], answer: label, strangeness, probabilities }
  if (!limits) return found
  const threshold = limits.thresholds[label]
  if (limits.strange !== null && strangeness !== null && !(strangeness <= limits.strange)) found.answer = TEXT.strange
  else if (!(threshold !== null && found.probability >= threshold)) found.answer = TEXT.notSure
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
  const n = method === 'draft' ? [8, 4, 2].find(n => n*size <= short) ?? 1 : 1, [w, h] = [Math.ceil(width/n), Math.ceil(height/n)]
  if (n > 1) image = scalePixels(cutPixels(image, 0, 0, w*n, h*n), w, h)
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
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none' }).catch(() => { throw TEXT.broken(file.name) })
  try {
    const n = bitmap.width*bitmap.height/1e6
    if (n > MOST) throw TEXT.huge(file.name, Math.ceil(10*n)/10)
    return readPixels(bitmap, bitmap.width, bitmap.height)
  } finally { bitmap.close() }
}
async function classify(image) {
  const asked = model, { img_size, resize } = asked.info, pixels = new Uint8Array(resizeImage(image, img_size, resize).data)
  const start = performance.now(), [found] = await ask(asked, pixels)
  return { ...decide(asked, found), ms: performance.now() - start, pixels, asked }
}
// What is shown
function drawPicture({ canvas, width, height }, method) {
  const pen = context($('picture')), scale = 320/Math.max(width, height), sides = [width*scale, height*scale], short = Math.min(...sides)
  const place = ([w, h]) => [(320 - w)/2, (320 - h)/2, w, h]
  pen.clearRect(0, 0, 320, 320)
  pen.drawImage(canvas, ...place(sides))
  frame = place(method === 'pad' ? [320, 320] : method === 'crop' ? [short, short] : sides)      // what the network gets
}
function show(found, image, fps) {
  $('result').hidden = $('look').hidden = false
  $('map').hidden = true
  drawPicture(image, found.asked.info.resize)
  shown = found, drawn = undefined
  const answer = found.answer === found.label ? found.answer : TEXT.likely(found.answer, found.label)
  if ($('answer').textContent !== answer) $('answer').textContent = answer      // which is read aloud
  $('detail').textContent = `${TEXT.percent(found.probability)}, ${TEXT.took(found.ms, fps)}`
  $('bars').tBodies[0].replaceChildren(...found.asked.info.classes.map((name, i) => {
    const p = found.probabilities[i], cell = inside => element('td', {}, inside)
    return element('tr', {}, element('th', { scope: 'row' }, name), cell(element('meter', { value: p, ariaLabel: name })), cell(TEXT.percent(p)))
  }))
}
function addRow(name, found, small) {
  results.push({ name, ...found })
  $('list').hidden = $('csv').hidden = false
  const pick = element('button', { type: 'button', onclick: () => { freeze(); show(found, small); mark(row); $('told').scrollIntoView({ block: 'nearest' }) } }, name)
  const cells = [pick, found.answer, TEXT.percent(found.probability), found.ms.toFixed(1)], row = element('tr', {}, ...cells.map(v => element('td', {}, v)))
  mark($('rows').appendChild(row))
}
function mark(row) { for (const other of $('rows').rows) other.ariaCurrent = other === row ? 'true' : null }
function readThumb({ canvas, width, height }) {
  const scale = Math.min(1, 320/Math.max(width, height)), [w, h] = [width, height].map(v => Math.max(1, Math.round(v*scale)))
  const small = new OffscreenCanvas(w, h), pen = context(small)
  pen.drawImage(canvas, 0, 0, w, h)
  pen.getImageData(0, 0, 1, 1)                                                  // now, so that the large canvas is freed
  return { canvas: small, width: w, height: h }
}
async function drawMap() { // how much the probability of the answer falls when a square of the picture is grey
  const found = drawn = drawn === shown ? undefined : shown                     // again: hide it, or stop
  $('map').hidden = true
  if (!found) return
  freeze()
  say(TEXT.looking)
  const { info } = found.asked, size = info.img_size, left = [], edge = k => Math.round(k*size/GRID)
  for (let k = 0; k <= GRID*GRID && shown === found && drawn === found; k++) {                     // the last one stays as it is
    const pixels = found.pixels.slice(), row = Math.floor(k/GRID), column = k % GRID
    for (let y = edge(row); y < Math.min(size, edge(row + 1)); y++) for (let x = edge(column); x < edge(column + 1); x++) pixels.set(GREY, 3*(y*size + x))
    left.push((await ask(found.asked, pixels))[0].probabilities[info.classes.indexOf(found.label)])
    if (!column) await new Promise(go => setTimeout(go))                        // so that the page can be used
  }
  if ($('message').textContent === TEXT.looking) say('')
  if (shown !== found || drawn !== found) return
  const whole = left.pop(), falls = left.map(p => Math.max(0, whole - p)), most = Math.max(...falls, .01), pen = context($('map')), [x, y, w, h] = frame
  pen.clearRect(0, 0, 320, 320)
  falls.forEach((fall, k) => {
    pen.fillStyle = `rgb(255 80 0 / ${.7*fall/most})`
    pen.fillRect(x + k % GRID*w/GRID, y + Math.floor(k/GRID)*h/GRID, w/GRID, h/GRID)
  })
  $('map').hidden = false
}
function saveCsv() { // columns as in lightweight predict
  const calibrated = 'calibration' in model.info, quote = v => /[",\r\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v
  const head = ['path', 'label', 'probability', ...(calibrated ? ['answer', 'strangeness'] : []), ...model.info.classes.map(c => `p_${c}`)]
  const lines = results.map(r => [r.name, r.label, r.probability.toFixed(6), ...(calibrated ? [r.answer, r.strangeness?.toFixed(6) ?? ''] : []),
                                  ...r.probabilities.map(p => p.toFixed(6))])
  const text = [head, ...lines].map(line => line.map(quote).join(',')).join('\n') + '\n'
  element('a', { href: encodeUrl(text, 'text/csv'), download: 'predictions.csv' }).click()
}
function describe({ name, info }, card = {}) {
  const { purity, confidence, thresholds = {} } = info.calibration ?? {}, round = v => Math.round(1000*v)/10
  const promise = purity && TEXT.promise(round(purity), round(confidence), info.classes.filter(c => (thresholds[c] ?? null) !== null).join(', '))
  $('classes').textContent = info.classes.join(', ')
  const facts = { [TEXT.file]: name, [TEXT.network]: TEXT.size(info.name, info.parameters, info.img_size), [TEXT.promised]: promise, ...card,
                  [TEXT.licence]: info.licence, [TEXT.checkpoint]: info.checkpoint }
  $('facts').replaceChildren(...Object.entries(facts).filter(([, v]) => v).flatMap(([name, v]) => [element('dt', {}, name), element('dd', {}, v)]))
}
// Input
let faults = [], waiting = 0
const take = files => { // one after the other, once the page is ready; the faults of all that wait are shown together
  if (!waiting++) faults = []
  taken = taken.then(() => model && takeNow(files)).finally(() => waiting--)
}
async function takeNow(files) {
  const isModel = file => /\.onnx$/i.test(file.name)
  say(faults.join('\n'))
  freeze()
  for (const file of files.sort((a, b) => isModel(b) - isModel(a))) {           // files of networks first
    try {
      if (isModel(file)) await swap(file.name, new Uint8Array(await file.arrayBuffer()))
      else {
        const image = await readPhoto(file), found = await classify(image), small = readThumb(image)
        show(found, small)
        addRow(file.name, found, small)
      }
    } catch (fault) { faults.push(typeof fault === 'string' ? fault : TEXT.fails(file.name, fault)) }
    say(faults.join('\n'))
  }
}
async function swap(name, bytes, card) {
  const opened = await openModel(name, bytes)
  model?.session.release();
  [model, shown, results] = [opened, undefined, []]
  $('rows').replaceChildren()
  $('result').hidden = $('list').hidden = $('look').hidden = $('csv').hidden = true
  describe(model, card)
}
globalThis.smooth = (mean, found) => mean ? mean.map((m, i) => MEMORY*m + (1 - MEMORY)*found[i]) : found   // moving average
async function watch(own) {
  const video = element('video', { srcObject: own, muted: true, playsInline: true })
  await video.play()
  let last = performance.now(), fps = 0
  while (stream === own) {
    await new Promise(resolve => { video.requestVideoFrameCallback(resolve); setTimeout(resolve, 1000) })
    if (isFrozen()) model.mean = undefined                                      // of the probabilities; it starts anew, as with the camera
    if (stream !== own || isFrozen() || !video.videoWidth) continue
    const image = readPixels(video, video.videoWidth, video.videoHeight), found = await classify(image), now = performance.now()
    const mean = found.asked.mean = smooth(found.asked.mean, found.probabilities)
    fps = .9*fps + .1*1000/Math.max(1, now - last), last = now
    if (stream === own && !isFrozen()) show({ ...found, ...decide(found.asked, { ...found, probabilities: mean }) }, image, fps)
  }
}
function setCamera(given, why = '') {
  stream?.getTracks().forEach(track => track.stop())
  stream = given, model.mean = undefined
  say(why)
  $('freeze').hidden = !stream
  $('camera').textContent = stream ? TEXT.stop : TEXT.camera
  freeze(false)
}
async function toggleCamera() {
  if (stream) return setCamera()
  if (!navigator.mediaDevices) return say(TEXT.insecure)
  $('camera').disabled = true
  try { setCamera(await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } })) } catch (fault) {
    return say({ NotAllowedError: TEXT.refused, SecurityError: TEXT.refused, NotReadableError: TEXT.busy, AbortError: TEXT.busy }[fault.name] ?? TEXT.noCamera)
  } finally { $('camera').disabled = false }
  stream.getTracks().forEach(track => { track.onended = () => setCamera(undefined, TEXT.lost) })
  watch(stream).catch(fault => setCamera(undefined, String(fault)))
}
function freeze(frozen = true) {
  $('freeze').toggleAttribute('data-frozen', Boolean(frozen && stream))
  $('freeze').textContent = isFrozen() ? TEXT.go : TEXT.freeze
}
async function openWorker() { // it keeps the files of this version of the page, each of which is loaded once
  const kept = await navigator.serviceWorker.register('worker.js', { updateViaCache: 'none' })
  await Promise.race([kept.update().catch(() => {}), new Promise(go => setTimeout(go, 3000))]) // no network, or a slow one
  const next = kept.installing ?? kept.waiting ?? kept.active, hasEnded = () => ['activated', 'redundant'].includes(next.state)
  if (next && !hasEnded()) await new Promise(go => { next.onstatechange = () => { if (hasEnded()) go() } })
}
async function start() {
  if (!$('model.onnx') && navigator.serviceWorker) await openWorker().catch(() => {})
  await loadRuntime()
  const own = JSON.parse(new TextDecoder().decode(await load('page.json')))
  await swap(own.name, await load('model.onnx'), own.card)
  $('camera').disabled = false
  document.body.dataset.ready = 'yes'
}
for (const e of document.querySelectorAll('[data-text], [data-label]')) e[e.dataset.text ? 'textContent' : 'ariaLabel'] = TEXT[e.dataset.text ?? e.dataset.label]
$('files').addEventListener('change', () => { take([...$('files').files]); $('files').value = '' })
document.addEventListener('paste', event => take([...event.clipboardData.files]))
document.addEventListener('dragover', event => event.preventDefault())
document.addEventListener('drop', event => { event.preventDefault(); take([...event.dataTransfer.files]) })
const acts = { camera: toggleCamera, freeze: () => freeze(!isFrozen()), look: drawMap, csv: saveCsv }
for (const [id, act] of Object.entries(acts)) $(id).addEventListener('click', async () => { try { await act() } catch (fault) { say(String(fault)) } })
say(TEXT.loading)
let taken = start().then(() => say(''), fault => say(location.protocol === 'file:' && !$('ort.mjs') ? TEXT.noServer : String(fault)))
