// Shapes of the chart. Text goes in as text, never as markup.

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

export const text = (x, y, content, kind, anchor = 'start') =>
  svg('text', { x, y, class: kind, 'text-anchor': anchor }, content)

export const bar = (x, y, width, height, kind, attributes = {}) =>
  svg('rect', { x, y, width, height: Math.max(height, 0), class: kind, ...attributes })

export const triangle = (x, y, kind) => svg('path', { d: `M${x - 4} ${y + 6}h8l-4 -6z`, class: kind })

export function hatchPattern(id) {
  return svg('defs', {}, svg('pattern',
    { id, width: 5, height: 5, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' },
    svg('rect', { width: 5, height: 5, class: 'hatch-ground' }),
    svg('line', { x1: 0, x2: 0, y1: 0, y2: 5, class: 'hatch-stroke' })))
}
