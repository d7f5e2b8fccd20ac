// Draws the panels that the server lays out, see nodes/chart.py. Text goes in as text, never as markup.

const LEAST_WIDTH = 420 // for which panels are laid out; a node that grows both ways enlarges its chart

let charts = 0

export const chartHeight = (panels) => panels.reduce((sum, { height }) => sum + height, 0)

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

const SHAPES = {
  bar: ({ x, thick, hatch }, column, y, height, kind) => svg('rect', {
    x: x(column + 0.5) - thick / 2, y, width: thick, height, class: kind,
    ...(kind.endsWith('skipped') && { fill: `url(#${hatch})` })
  }),
  rule: ({ x, columns }, y, kind) => svg('line', { x1: x(0), x2: x(columns), y1: y, y2: y, class: kind }),
  curve: ({ x }, points, kind) =>
    svg('polyline', { points: points.map(([at, y]) => `${x(at)},${y}`).join(' '), class: kind }),
  dot: ({ x }, at, y, kind) => svg('circle', { cx: x(at), cy: y, r: 2.8, class: kind }),
  arrow: ({ x }, at, y, kind) => svg('path', { d: `M${x(at) - 4} ${y + 6}h8l-4 -6z`, class: kind }),
  text: ({ x, say }, at, shift, y, content, kind, anchor) =>
    svg('text', { x: x(at) + shift, y, class: kind, 'text-anchor': anchor }, say(content))
}

/**
 * The chart.
 * @param panels of the server's chart
 * @param size width and height in CSS pixels
 * @param say makes text of an entry
 * @returns element: the SVG; at(x, y): the place under a point, or null; of(run, column): a place; mark(place):
 *   highlights its column. A place is {run, column, x, top}: its middle, and the upper edge of its run.
 */
export function drawChart(panels, { width, height }, say) {
  const zoom = Math.max(1, Math.min(height / chartHeight(panels), width / LEAST_WIDTH))
  const hatch = `adacache-hatch-${++charts}`
  const viewBox = `0 0 ${width / zoom} ${height / zoom}`
  const element = svg('svg', { viewBox, width, height, 'aria-hidden': 'true' }, hatchPattern(hatch))
  let bottom = 0
  const drawn = panels.map((panel) => {
    const pitch = (width / zoom - panel.left - panel.right) / panel.columns
    const thick = Math.max(pitch - Math.max(1, Math.min(3, pitch * 0.2)), 1)
    const within = { ...panel, pitch, thick, hatch, say, top: bottom, x: (at) => panel.left + at * pitch }
    within.marker = svg('rect', { class: 'marker', y: 0, width: 0, height: panel.height })
    element.append(svg('g', { transform: `translate(0 ${bottom})` },
      within.marker, ...panel.marks.map(([shape, ...values]) => SHAPES[shape](within, ...values))))
    bottom += panel.height
    return within
  })
  const of = (run, column) => {
    const panel = drawn.find((one) => one.run === run)
    return panel ? { run, column, x: panel.x(column + 0.5) * zoom, top: panel.top * zoom } : null
  }
  return {
    element,
    of,
    at(x, y) {
      const panel = drawn.findLast(({ top }) => y >= top * zoom)
      const column = panel ? Math.floor((x / zoom - panel.left) / panel.pitch) : -1
      return column >= 0 && column < panel.columns ? of(panel.run, column) : null
    },
    mark(place) {
      for (const { run, marker, pitch, x } of drawn) {
        marker.setAttribute('width', place?.run === run ? pitch : 0)
        if (place?.run === run) marker.setAttribute('x', x(place.column))
      }
    }
  }
}

const hatchPattern = (id) => svg('defs', {}, svg('pattern',
  { id, width: 5, height: 5, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
  svg('rect', { width: 5, height: 5, class: 'hatch-ground' }),
  svg('line', { x1: 0, x2: 0, y1: 0, y2: 5, class: 'hatch-stroke' })))
