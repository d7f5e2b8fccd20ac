// What the Inspector shows: numbers, chart, sentences and controls, in one element that any renderer can hold.

import { chartHeight, drawChart, hasDistance, hasMotion, rateBounds } from './chart.js'
import { csvOf, humanBytes, humanSeconds } from './report.js'
import { fill, sentences } from './strings.js'

const TABLE = ['step', 'computed', 'reason', 'seconds', 'rate', 'distance']
const PADDING = 20, GAP = 8

/** An HTML element; text goes in as text, never as markup. */
function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

export class InspectorView {
  /**
   * @param strings called whenever something is drawn; see stringsFor
   * @param onHeight called with the least height at which everything fits, whenever it changes
   */
  constructor(strings, onHeight) {
    this.strings = strings
    this.onHeight = onHeight
    this.height = 0
    this.report = null
    this.drawn = null
    this.pointer = null
    this.numbers = html('dl', { class: 'adacache-numbers' })
    this.legend = html('div', { class: 'adacache-legend', 'aria-hidden': 'true' })
    this.chart = html('div', { class: 'adacache-chart', role: 'img', tabindex: '0' })
    this.tip = html('div', { class: 'adacache-tip', hidden: '' })
    this.summary = html('ul', { class: 'adacache-summary', 'aria-live': 'polite' })
    this.actions = html('div', { class: 'adacache-actions' })
    this.table = html('table')
    this.element = html('div', { class: 'adacache' },
      this.numbers, this.legend, this.chart, this.summary, this.actions,
      html('div', { class: 'adacache-unseen' }, this.table))
    this.observer = new ResizeObserver(() => this.#draw())
    this.observer.observe(this.element)
    this.observer.observe(this.chart)
    this.#listen()
    this.show(null)
  }

  dispose() {
    this.observer.disconnect()
  }

  /** Show a report, or the empty state. `live` is {done, total, stopped} while it is not complete. */
  show(report, live = null) {
    this.report = report
    const strings = this.strings()
    this.element.classList.toggle('adacache-live', Boolean(live && !live.stopped))
    this.#fillNumbers(strings)
    this.#fillLegend(strings)
    this.#fillSummary(strings, live)
    this.#fillActions(strings)
    this.#fillTable(strings)
    this.#draw(true)
  }

  #fillNumbers(strings) {
    const { report } = this
    const values = report?.runs.length
      ? [
          [strings.speedup, report.speedup == null ? '–' : `${report.speedup.toFixed(2)}×`],
          [strings.steps, fill(strings.of, { computed: report.computed_steps, total: report.total_steps })],
          [strings.memory, humanBytes(report.cache_bytes)],
          [fill(strings.presetReplay, report), report.preset]
        ]
      : [strings.speedup, strings.steps, strings.memory, strings.preset].map((label) => [label, '–'])
    this.numbers.replaceChildren(
      ...values.map(([label, value]) => html('div', {}, html('dt', {}, label), html('dd', {}, value))))
  }

  #fillLegend(strings) {
    const runs = this.report?.runs ?? []
    const entries = [['computed', strings.computed], ['skipped', strings.skipped]]
    if (runs.some(hasDistance)) entries.push(['distance', strings.distanceKey])
    if (runs.some((run) => hasDistance(run) && rateBounds(run.settings.codebook).length))
      entries.push(['bound', strings.boundKey])
    if (runs.some(hasMotion))
      entries.push(['plain-distance', strings.plainKey], ['score', strings.scoreKey], ['gradient', strings.gradientKey])
    this.legend.replaceChildren(
      ...(runs.length ? entries : []).map(([kind, label]) => html('span', { class: kind }, label)))
  }

  #fillSummary(strings, live) {
    const { report } = this
    const lines = live
      ? [fill(live.stopped ? strings.stopped : strings.sampling, live)]
      : report ? sentences(report, strings) : [strings.empty]
    this.summary.replaceChildren(...lines.map((line) => html('li', {}, line)))
  }

  #fillActions(strings) {
    this.actions.hidden = !this.report?.runs.length
    if (this.actions.childElementCount) {
      this.actions.children[0].textContent = strings.copy
      this.actions.children[1].textContent = strings.save
      return
    }
    const said = html('output')
    const copy = html('button', { type: 'button' }, strings.copy)
    copy.addEventListener('click', async () => {
      const done = await copyText(JSON.stringify(this.report, null, 2))
      said.textContent = done ? this.strings().copied : this.strings().notCopied
      setTimeout(() => said.replaceChildren(), 2000)
    })
    const save = html('button', { type: 'button' }, strings.save)
    save.addEventListener('click', () => saveText(csvOf(this.report), 'adacache.csv'))
    this.actions.append(copy, save, said)
  }

  /** The chart in words, for those who do not see it: one sentence, and a table out of sight. */
  #fillTable(strings) {
    const { report } = this
    if (!report?.runs.length) {
      this.chart.setAttribute('aria-label', strings.empty)
      this.table.replaceChildren()
      return
    }
    const rows = report.runs.flatMap((run) => run.steps)
    const skipped = rows.filter((record) => !record.computed).map((record) => record.step + 1)
    const list = skipped.length ? fill(strings.alternativeList, { steps: skipped.join(', ') }) : ''
    this.chart.setAttribute('aria-label', fill(strings.alternative,
      { computed: report.computed_steps, total: report.total_steps, skipped: report.skipped_steps, list }))
    const heads = [strings.step, strings.computed, strings.tipReason, strings.tipTime, strings.rate, strings.distanceKey]
    this.table.replaceChildren(
      html('caption', {}, strings.table),
      html('tr', {}, ...heads.map((head) => html('th', { scope: 'col' }, head))),
      ...rows.map((record) => html('tr', {}, ...TABLE.map((name) => html('td', {}, cell(record, name, strings))))))
  }

  #draw(changed = false) {
    const runs = this.report?.runs ?? []
    const natural = runs.length ? chartHeight(runs) : 0
    this.chart.hidden = !runs.length
    this.chart.style.minHeight = `${natural}px`
    this.#measure(natural)
    const size = { width: this.chart.clientWidth, height: Math.max(natural, this.chart.clientHeight) }
    if (!changed && size.width === this.size?.width && size.height === this.size.height) return
    this.size = size
    this.drawn = runs.length && size.width > 60 ? drawChart(runs, size, this.#words()) : null
    this.chart.replaceChildren(...(this.drawn ? [this.drawn.element] : []), this.tip)
    this.#point()
  }

  /** Everything but the chart has the height of its content, which depends on the width. */
  #measure(chart) {
    const others = [this.numbers, this.legend, this.summary, this.actions]
    const heights = others.map((part) => part.offsetHeight).filter((height) => height > 0)
    if (!heights.length) return
    const height = heights.reduce((sum, each) => sum + each + GAP, chart + PADDING)
    if (height === this.height) return
    this.height = height
    this.onHeight(height)
  }

  #words() {
    const strings = this.strings()
    return {
      ...strings,
      seconds: humanSeconds,
      bound: (bound, rate) => fill(strings.bound, { bound, rate }),
      runTitle: (number, runs, run) => fill(strings.run, {
        number, runs, computed: run.computed_steps, total: run.total_steps, seconds: humanSeconds(run.seconds)
      })
    }
  }

  #listen() {
    this.chart.addEventListener('pointermove', ({ clientX, clientY }) => {
      this.pointer = { clientX, clientY }
      this.#point()
    })
    this.chart.addEventListener('pointerleave', () => {
      this.pointer = null
      this.#point()
    })
  }

  /** The step under the pointer; also called when the chart changes under a pointer at rest. */
  #place() {
    if (!this.pointer || !this.drawn) return null
    const box = this.chart.getBoundingClientRect()
    // The canvas renderer scales the element with the zoom of the graph.
    const scale = this.chart.clientWidth / box.width
    return this.drawn.at((this.pointer.clientX - box.left) * scale, (this.pointer.clientY - box.top) * scale)
  }

  #point() {
    const place = this.#place()
    this.drawn?.mark(place)
    this.tip.hidden = !place
    if (!place) return
    const strings = this.strings(), run = this.report.runs[place.run]
    this.tip.replaceChildren(...tipLines(run.steps[place.column], run, strings))
    const left = place.x + 12, fits = left + this.tip.offsetWidth <= this.chart.clientWidth
    this.tip.style.left = `${fits ? left : Math.max(0, place.x - 12 - this.tip.offsetWidth)}px`
    this.tip.style.top = `${place.top + 24}px`
  }
}

const number = (value) => (value == null ? '' : Number(value.toPrecision(4)).toString())

function cell(record, name, strings) {
  if (name === 'step') return record.step + 1
  if (name === 'computed') return record.computed ? strings.computed : strings.skipped
  if (name === 'reason') return strings.reasons[record.reason] ?? record.reason
  return name === 'seconds' ? humanSeconds(record.seconds) : number(record[name])
}

function tipLines(record, run, strings) {
  const lines = [
    [strings.tipReason, record.computed ? cell(record, 'reason', strings) : ''],
    [strings.tipTime, humanSeconds(record.seconds)],
    [strings.tipSigma, number(record.sigma)],
    [strings.tipRate, record.rate ?? ''],
    [strings.tipDistance, number(record.distance)],
    [strings.tipRegularized, record.motion_score == null ? '' : number(record.regularized_distance)],
    [strings.tipScore, number(record.motion_score)],
    [strings.tipGradient, number(record.motion_gradient)],
    [strings.tipCalls, fill(strings.of, { computed: record.computed_calls, total: record.calls })]
  ]
  const title = fill(strings.stepTitle, { step: record.step + 1, total: run.total_steps })
  const state = record.computed ? strings.computed : strings.skipped
  return [
    html('strong', {}, `${title}: ${state}`),
    ...lines.filter(([, value]) => value !== '')
      .map(([label, value]) => html('div', {}, html('span', {}, label), html('span', {}, value)))
  ]
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // Without https the clipboard is not to be had this way.
    const area = html('textarea', { class: 'adacache-unseen' })
    area.value = text
    document.body.append(area)
    area.select()
    const done = document.execCommand('copy')
    area.remove()
    return done
  }
}

function saveText(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: 'text/csv' }))
  html('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url))
}
