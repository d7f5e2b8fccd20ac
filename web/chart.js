// Draws the records of sampling runs as SVG. Pure: numbers in, one element out.

import { conditionLanes, hasDistance, hasMotion, rateBounds, scaleTop } from './scales.js'
import { bar, hatchPattern, svg, text, triangle } from './svg.js'

const LEFT = 40, RIGHT = 6, LABELS = 78, TITLE = 22, CAPTION = 29, BARS = 84, STRIP = 44, LANE = 62, ROW = 13, GAP = 8
const MOST_ROWS = 8

let patterns = 0

const lanesOf = (run) => Number(hasDistance(run)) + Number(hasMotion(run))
const short = (value) => Number(value.toPrecision(3)).toString()

/** The least height at which a chart of these runs reads well. */
export function chartHeight(runs) {
  const heights = runs.map((run) => CAPTION + BARS + STRIP + rowsHeight(run) + lanesOf(run) * (CAPTION + LANE) + GAP)
  return heights.reduce((sum, height) => sum + height, 0) + (runs.length > 1 ? runs.length * TITLE : 0)
}

/**
 * The chart.
 * @param runs dictionaries of RunStatistics
 * @param size width and height in CSS pixels
 * @param words texts of the chart, see strings.js
 * @returns element: the SVG; at(x, y): the place under a point, or null; of(run, column): a place; mark(place):
 *   highlights its column. A place is {run, column, x, top}: its middle, and the upper edge of its run.
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
  return {
    element,
    at: (x, y) => placeAt(panels, x, y),
    of: (run, column) => placeOf(panels[run], column),
    mark: (place) => markPlace(panels, place)
  }
}

function placeAt(panels, x, y) {
  const panel = panels.find(({ top, bottom }) => y >= top && y <= bottom)
  if (!panel) return null
  const column = Math.floor((x - LEFT) / panel.columns.pitch)
  return column >= 0 && column < panel.run.steps.length ? placeOf(panel, column) : null
}

const placeOf = ({ number, columns, top }, column) => ({ run: number, column, x: columns.middle(column), top })

function markPlace(panels, place) {
  for (const { number, columns, top, bottom, marker } of panels) {
    const here = place?.run === number
    const box = here
      ? { x: columns.middle(place.column) - columns.pitch / 2, y: top, width: columns.pitch, height: bottom - top }
      : { width: 0 }
    for (const [name, value] of Object.entries(box)) marker.setAttribute(name, value)
  }
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

const line = (columns, y, kind) => svg('line', { x1: LEFT, x2: columns.right, y1: y, y2: y, class: kind })

function drawPanel(root, run, columns, top, stretch, hatch, words) {
  const bars = BARS * stretch, lane = LANE * stretch
  drawSeconds(root, run.steps, columns, top, bars, hatch, words)
  top += CAPTION + bars
  drawStrip(root, run.steps, columns, top + 4, hatch, words)
  top += STRIP
  const rows = rowsHeight(run)
  if (rows) drawConditions(root, conditionLanes(run), columns, top, hatch, words)
  top += rows
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
    const [kind, look] = record.partial ? ['partial', {}] : ['skipped', { fill: `url(#${hatch})` }]
    if (ran < 1) root.append(bar(x, top + height - seen, columns.thick, seen, kind, look))
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
  drawCells(root, steps.map((record) => (record.computed ? 'c' : record.partial ? 'p' : 's')), columns, top, 'cell', hatch)
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

function drawCells(root, letters, columns, top, kind, hatch) {
  const kinds = { c: 'computed', p: 'partial', s: 'skipped' }
  for (let column = 0; column < columns.count; column++) {
    const letter = letters[column]
    const fill = letter === 's' ? { fill: `url(#${hatch})` } : {}
    root.append(bar(columns.start(column), top, columns.thick, 9, `${kind} ${kinds[letter] ?? 'pending'}`, fill))
  }
}

const rowsHeight = (run) => {
  const rows = Math.min(conditionLanes(run).length, MOST_ROWS)
  return rows ? CAPTION + rows * ROW : 0
}

/** Where conditions differ, a row for each, or for those that do alike. */
function drawConditions(root, lanes, columns, top, hatch, words) {
  const shown = lanes.slice(0, MOST_ROWS)
  root.append(text(0, top + 16, words.conditionRows(shown.length, lanes.length), 'caption'))
  shown.forEach(({ numbers, letters }, row) => {
    const y = top + CAPTION - 5 + row * ROW
    const label = numbers.length < 4 ? numbers.join(', ') : `${numbers[0]} +${numbers.length - 1}`
    root.append(text(LEFT - 5, y + 8, label, 'tick', 'end'))
    drawCells(root, letters, columns, y, 'condition', hatch)
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
    below = Math.min(y(bound), below - 11) // labels of lines that lie close together are moved up
    if (below < y(Infinity) - 6) return
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
