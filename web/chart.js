// Draws the records of sampling runs as SVG. Pure: numbers in, one element out.

const LEFT = 40, RIGHT = 6, LABELS = 78, TITLE = 22, CAPTION = 29, BARS = 84, STRIP = 44, LANE = 62, GAP = 8
const STEPS_OF_TEN = [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10]

let patterns = 0

/** An SVG element; text goes in as text, never as markup. */
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]

/** Round top of an axis: the largest value, but not so far above the usual ones that these could not be read. */
export function scaleTop(values, least = 0) {
  const present = values.filter((value) => value > 0)
  const usual = present.length ? 3 * median(present) : 0
  const top = Math.max(Math.min(Math.max(0, ...present), usual), least) || 1
  const unit = 10 ** Math.floor(Math.log10(top))
  return STEPS_OF_TEN.map((step) => step * unit).find((step) => step >= top * 0.999)
}

/** Thresholds at which a codebook's rate changes, with the rate below them. */
export function rateBounds(codebook) {
  return (codebook ?? []).filter(([, rate], at, all) => at + 1 < all.length && rate !== all[at + 1][1])
}

export const hasDistance = (run) => run.steps.some((record) => record.distance != null)
export const hasMotion = (run) => run.steps.some((record) => record.motion_score != null)
const lanesOf = (run) => Number(hasDistance(run)) + Number(hasMotion(run))
const short = (value) => Number(value.toPrecision(3)).toString()

/** The least height at which a chart of these runs reads well. */
export function chartHeight(runs) {
  return runs.reduce((sum, run) => sum + CAPTION + BARS + STRIP + lanesOf(run) * (CAPTION + LANE) + GAP, 0)
    + (runs.length > 1 ? runs.length * TITLE : 0)
}

/**
 * The chart.
 * @param runs dictionaries of RunStatistics
 * @param size width and height in CSS pixels
 * @param words texts of the chart, see strings.js
 * @returns element: the SVG; at(x, y): {run, column} under a point, or null; mark(place): highlights a column
 */
export function drawChart(runs, { width, height }, words) {
  const element = svg('svg', { viewBox: `0 0 ${width} ${height}`, width, height, 'aria-hidden': 'true' })
  const hatch = `adacache-hatch-${++patterns}`
  element.append(hatchPattern(hatch))
  const natural = chartHeight(runs)
  const parts = runs.reduce((sum, run) => sum + BARS + lanesOf(run) * LANE, 0)
  const stretch = 1 + Math.max(0, height - natural) / Math.max(parts, 1)
  const panels = []
  let top = 0
  runs.forEach((run, number) => {
    const start = top
    if (runs.length > 1) {
      element.append(text(0, top + 14, words.runTitle(number + 1, runs.length, run), 'title'))
      top += TITLE
    }
    const columns = columnsOf(run, width)
    const panel = { run, number, columns, top: start, bottom: 0, marker: svg('rect', { class: 'marker', width: 0 }) }
    element.append(panel.marker)
    top = drawPanel(element, run, columns, top, stretch, hatch, words)
    panel.bottom = top
    panels.push(panel)
    top += GAP
  })
  return { element, at: (x, y) => placeAt(panels, x, y), mark: (place) => markPlace(panels, place) }
}

function placeAt(panels, x, y) {
  const panel = panels.find(({ top, bottom }) => y >= top && y <= bottom)
  if (!panel) return null
  const column = Math.floor((x - LEFT) / panel.columns.pitch)
  const drawn = column >= 0 && column < panel.run.steps.length
  return drawn ? { run: panel.number, column, x: panel.columns.middle(column), top: panel.top } : null
}

function markPlace(panels, place) {
  for (const { number, columns, top, bottom, marker } of panels) {
    const here = place?.run === number
    const box = here
      ? { x: columns.middle(place.column) - columns.pitch / 2, y: top, width: columns.pitch, height: bottom - top }
      : { width: 0 }
    for (const [name, value] of Object.entries(box)) marker.setAttribute(name, value)
  }
}

function hatchPattern(id) {
  return svg('defs', {}, svg('pattern',
    { id, width: 5, height: 5, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
    svg('rect', { width: 5, height: 5, class: 'hatch-ground' }),
    svg('line', { x1: 0, x2: 0, y1: 0, y2: 5, class: 'hatch-stroke' })))
}

/** Where steps lie. By order, not by step index: a sampler may go back and start over. */
function columnsOf(run, width) {
  const count = Math.max(run.total_steps, run.steps.length, 1)
  const labelled = hasDistance(run) && rateBounds(run.settings.codebook).length
  const right = width - (labelled ? LABELS : RIGHT)
  const pitch = (right - LEFT) / count
  const thick = Math.max(pitch - Math.max(1, Math.min(3, pitch * 0.2)), 1)
  const middle = (column) => LEFT + (column + 0.5) * pitch
  return { count, pitch, thick, middle, start: (column) => middle(column) - thick / 2, right }
}

const text = (x, y, content, kind, anchor = 'start') =>
  svg('text', { x, y, class: kind, 'text-anchor': anchor }, content)
const line = (columns, y, kind) => svg('line', { x1: LEFT, x2: columns.right, y1: y, y2: y, class: kind })
const bar = (x, y, width, height, kind, attributes = {}) =>
  svg('rect', { x, y, width, height: Math.max(height, 0), class: kind, ...attributes })
const triangle = (x, y, kind) => svg('path', { d: `M${x - 4} ${y + 6}h8l-4 -6z`, class: kind })

function drawPanel(root, run, columns, top, stretch, hatch, words) {
  const bars = BARS * stretch, lane = LANE * stretch
  drawSeconds(root, run.steps, columns, top, bars, hatch, words)
  top += CAPTION + bars
  drawStrip(root, run.steps, columns, top + 4, hatch, words)
  top += STRIP
  if (hasDistance(run)) {
    drawDistance(root, run, columns, top, lane, words)
    top += CAPTION + lane
  }
  if (hasMotion(run)) {
    drawMotion(root, run.steps, columns, top, lane, words)
    top += CAPTION + lane
  }
  return top
}

function drawAxis(root, columns, top, height, ceiling, caption) {
  root.append(text(0, top + 16, caption, 'caption'))
  for (const part of [0, 0.5, 1]) {
    const y = top + CAPTION + height * (1 - part)
    root.append(line(columns, y, part ? 'grid' : 'axis'))
    root.append(text(LEFT - 5, y + 3.5, short(ceiling * part), 'tick', 'end'))
  }
  return top + CAPTION
}

function drawSeconds(root, steps, columns, top, height, hatch, words) {
  const computed = steps.filter((record) => record.computed)
  const ceiling = scaleTop((computed.length ? computed : steps).map((record) => record.seconds))
  top = drawAxis(root, columns, top, height, ceiling, words.time)
  let freeFrom = 0
  steps.forEach((record, column) => {
    const x = columns.start(column), high = Math.min(record.seconds / ceiling, 1) * height
    // Both where only some of a step's calls replayed, e.g. for one condition of two.
    const ran = record.calls ? record.computed_calls / record.calls : Number(record.computed)
    const seen = Math.max(high, 2)
    if (ran < 1) root.append(bar(x, top + height - seen, columns.thick, seen, 'skipped', { fill: `url(#${hatch})` }))
    if (ran > 0) root.append(bar(x, top + height - high * ran, columns.thick, high * ran, 'computed'))
    if (record.seconds > ceiling) {
      const middle = columns.middle(column)
      root.append(triangle(middle, top - 7, 'computed'))
      if (middle < freeFrom) return
      const [beside, anchor] = middle + 48 < columns.right ? [7, 'start'] : [-7, 'end']
      root.append(text(middle + beside, top - 1, words.seconds(record.seconds), 'tick', anchor))
      freeFrom = middle + 48
    }
  })
}

function drawStrip(root, steps, columns, top, hatch, words) {
  for (let column = 0; column < columns.count; column++) {
    const record = steps[column]
    const kind = record ? (record.computed ? 'computed' : 'skipped') : 'pending'
    const fill = kind === 'skipped' ? { fill: `url(#${hatch})` } : {}
    root.append(bar(columns.start(column), top, columns.thick, 9, `cell ${kind}`, fill))
  }
  root.append(text(LEFT - 5, top + 21, words.step, 'tick', 'end'), text(LEFT - 5, top + 34, words.rate, 'tick', 'end'))
  for (const column of ticks(columns)) {
    const number = (steps[column]?.step ?? column) + 1
    root.append(text(columns.middle(column), top + 21, number, 'tick', 'middle'))
  }
  let freeFrom = 0
  steps.forEach((record, column) => {
    const x = columns.middle(column)
    if (!record.rate || x < freeFrom) return
    root.append(text(x, top + 34, record.rate, 'tick strong', 'middle'))
    freeFrom = x + 14
  })
}

function ticks({ pitch, count }) {
  const every = [1, 2, 5, 10, 20, 50, 1e6].find((n) => n * pitch >= 20)
  const columns = [0]
  for (let column = Math.max(every - 1, every === 2 ? 3 : 1); column < count; column += every) columns.push(column)
  return columns
}

function drawDistance(root, run, columns, top, height, words) {
  const bounds = rateBounds(run.settings.codebook)
  const points = run.steps
    .map((record, column) => ({ record, column, value: record.regularized_distance ?? record.distance }))
    .filter(({ value }) => value != null)
  const ceiling = scaleTop(points.map(({ value }) => value), bounds.length ? bounds.at(-1)[0] * 1.15 : 0)
  top = drawAxis(root, columns, top, height, ceiling, words.distance)
  const y = (value) => top + height * (1 - Math.min(value / ceiling, 1))
  for (const [bound] of bounds) root.append(line(columns, y(bound), 'bound'))
  const path = points.map(({ column, value }) => `${columns.middle(column)},${y(value)}`).join(' ')
  root.append(svg('polyline', { points: path, class: 'distance-line' }))
  for (const { record, column, value } of points) {
    const x = columns.middle(column)
    if (record.regularized_distance != null && record.regularized_distance !== record.distance)
      root.append(svg('circle', { cx: x, cy: y(record.distance), r: 2.6, class: 'plain-distance' }))
    const dot = () => svg('circle', { cx: x, cy: y(value), r: 2.8, class: 'distance' })
    root.append(value > ceiling ? triangle(x, top - 6, 'distance') : dot())
  }
  labelBounds(root, bounds, columns, y, words)
}

function labelBounds(root, bounds, columns, y, words) {
  let below = Infinity
  for (const [bound, rate] of bounds) {
    if (below - y(bound) < 10) continue
    below = y(bound)
    root.append(text(columns.right + 5, below + 3.5, words.bound(short(bound), rate), 'tick'))
  }
}

/** Score plus size of the gradient: what MoReg multiplies the distance by. */
function drawMotion(root, steps, columns, top, height, words) {
  const measured = steps
    .map((record, column) => ({ column, score: record.motion_score, gradient: Math.abs(record.motion_gradient ?? 0) }))
    .filter(({ score }) => score != null)
  const ceiling = scaleTop(measured.map(({ score, gradient }) => score + gradient), 1)
  top = drawAxis(root, columns, top, height, ceiling, words.motion)
  const part = (value) => Math.min(value / ceiling, 1) * height
  for (const { column, score, gradient } of measured) {
    const x = columns.start(column), low = part(score), high = part(score + gradient)
    root.append(bar(x, top + height - high, columns.thick, high - low, 'gradient'))
    root.append(bar(x, top + height - low, columns.thick, low, 'score'))
    if (score + gradient > ceiling) root.append(triangle(columns.middle(column), top - 6, 'score'))
  }
  root.append(line(columns, top + height - part(1), 'unchanged'))
}
