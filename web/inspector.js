// What the Inspector shows: numbers, chart, sentences and controls, in one element that any renderer can hold.

import { chartHeight, drawChart } from './chart.js'
import { alternative, html, memoryLabel, sigmaSpan, tableRows, tipLines } from './details.js'
import { conditionLanes, hasDistance, hasMotion, rateBounds } from './scales.js'
import { csvOf, humanBytes, humanSeconds } from './report.js'
import { fill, sentences } from './strings.js'

const PADDING = 20, GAP = 8
// From the position of one step to that of another; -1 is none.
const KEYS = {
  ArrowRight: (here, count) => Math.min(here + 1, count - 1),
  ArrowLeft: (here) => Math.max(here - 1, 0),
  Home: () => 0,
  End: (_, count) => count - 1,
  Escape: () => -1
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
    this.cursor = null
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

  /** Show a report, or the empty state. `live` is {run, done, total, stopped} while it is not complete. */
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
          [memoryLabel(report, strings), humanBytes(report.cache_bytes)],
          [fill(strings.presetReplay, report), report.preset]
        ]
      : [strings.speedup, strings.steps, strings.memory, strings.preset].map((label) => [label, '–'])
    this.numbers.replaceChildren(
      ...values.map(([label, value]) => html('div', {}, html('dt', {}, label), html('dd', {}, value))))
  }

  #fillLegend(strings) {
    const runs = this.report?.runs ?? []
    const entries = [['computed', strings.computed], ['skipped', strings.skipped]]
    if (runs.some((run) => run.partial_steps)) entries.push(['partial', strings.partial])
    if (runs.some((run) => conditionLanes(run).some(({ letters }) => letters.includes('-'))))
      entries.push(['pending', strings.notCalled])
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
    const sampling = live?.run > 1 ? strings.samplingRun : strings.sampling
    // Four times a second is too much to be read out.
    this.summary.setAttribute('aria-live', live && !live.stopped ? 'off' : 'polite')
    const lines = live
      ? [fill(live.stopped ? strings.stopped : sampling, live)]
      : report ? sentences(report, strings) : [strings.empty]
    const kind = (at) => (!live && report?.explanation[at]?.key === 'run' ? { class: 'run' } : {})
    this.summary.replaceChildren(...lines.map((line, at) => html('li', kind(at), line)))
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

  /** The chart in words: one sentence, and a table out of sight. */
  #fillTable(strings) {
    const { report } = this
    const shown = report?.runs.length > 0
    this.chart.setAttribute('aria-label', shown ? alternative(report, strings) : strings.empty)
    this.table.replaceChildren(...(shown ? tableRows(report, strings) : []))
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
      conditionRows: (shown, count) =>
        fill(shown < count ? strings.conditionsCut : strings.conditions, { shown, count }),
      runTitle: (number, runs, run) => fill(strings.run, {
        number, runs, computed: run.computed_steps, total: run.total_steps, seconds: humanSeconds(run.seconds),
        span: sigmaSpan(run, strings)
      })
    }
  }

  #listen() {
    this.chart.addEventListener('pointermove', ({ clientX, clientY }) => {
      this.pointer = { clientX, clientY }
      this.cursor = null
      this.#point()
    })
    for (const event of ['pointerleave', 'blur']) {
      this.chart.addEventListener(event, () => {
        this.pointer = this.cursor = null
        this.#point()
      })
    }
    this.chart.addEventListener('keydown', (event) => {
      const go = KEYS[event.key]
      if (!go || !this.drawn) return
      event.preventDefault()
      event.stopPropagation() // the graph has uses of its own for these keys
      this.#moveCursor(go)
    })
  }

  #moveCursor(go) {
    const places = this.report.runs.flatMap(({ steps }, run) => steps.map((_, column) => ({ run, column })))
    const here = places.findIndex(({ run, column }) => run === this.cursor?.run && column === this.cursor.column)
    this.cursor = places[go(here, places.length)] ?? null
    this.#point()
  }

  /** The step chosen by keys or under the pointer; also called when the chart changes under a pointer at rest. */
  #place() {
    if (this.cursor && this.drawn) return this.drawn.of(this.cursor.run, this.cursor.column)
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
