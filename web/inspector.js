// What the Inspector shows: numbers, chart, sentences and controls, in one element that any renderer can hold.

import { chartHeight, drawChart } from './chart.js'
import { csvOf, html, sessionRows, tableRows, tipLines } from './details.js'
import { say } from './strings.js'

const PADDING = 20, GAP = 8
const NUMBERS = ['speedup_label', 'steps_label', 'memory_label', 'preset_label'].map((key) => [{ key }, '-'])
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
   * @param words called whenever something is drawn; see wordsFor
   * @param onHeight called with the least height at which everything fits, whenever it changes
   * @param choose called with 1 for a faster preset, -1 for a closer one; returns an entry that says what came of it
   */
  constructor(words, onHeight, choose) {
    this.words = words
    this.onHeight = onHeight
    this.choose = choose
    this.height = 0
    this.report = this.drawn = null
    this.pointer = this.cursor = null
    this.numbers = html('dl', { class: 'adacache-numbers' })
    this.legend = html('div', { class: 'adacache-legend', 'aria-hidden': 'true' })
    this.chart = html('div', { class: 'adacache-chart', role: 'img', tabindex: '0' })
    this.tip = html('div', { class: 'adacache-tip', hidden: '' })
    this.summary = html('ul', { class: 'adacache-summary', 'aria-live': 'polite' })
    this.actions = html('div', { class: 'adacache-actions' })
    this.results = html('table')
    this.session = html('details', { class: 'adacache-session' }, html('summary'), this.results)
    this.session.addEventListener('toggle', () => this.#draw())
    this.table = html('table')
    this.element = html('div', { class: 'adacache' },
      this.numbers, this.legend, this.chart, this.summary, this.session, this.actions,
      html('div', { class: 'adacache-unseen' }, this.table))
    this.observer = new ResizeObserver(() => this.#draw())
    this.observer.observe(this.element)
    this.observer.observe(this.chart)
    this.#listen()
    this.show(null, null)
  }

  dispose() {
    this.observer.disconnect()
  }

  /** Show a report and its chart, see nodes/report.py and chart.py, or the empty state. `live`: it will change. */
  show(report, chart, live = false) {
    const words = this.words(), shown = report?.runs.length > 0
    this.report = report
    this.panels = chart?.panels ?? []
    this.element.classList.toggle('adacache-live', live)
    // Four times a second is too much to be read out.
    this.summary.setAttribute('aria-live', live ? 'off' : 'polite')
    this.numbers.replaceChildren(...(chart?.tiles ?? NUMBERS).map(([label, value]) =>
      html('div', {}, html('dt', {}, say(label, words)), html('dd', {}, say(value, words)))))
    this.legend.replaceChildren(
      ...(chart?.legend ?? []).map(([kind, label]) => html('span', { class: kind }, say(label, words))))
    const lines = report?.explanation ?? [{ key: 'empty' }]
    this.summary.replaceChildren(
      ...lines.map((entry) => html('li', entry.key === 'run' ? { class: 'run' } : {}, say(entry, words))))
    this.session.hidden = !report?.session?.length
    this.session.firstChild.textContent = words.session
    this.results.replaceChildren(...sessionRows(report?.session ?? [], words))
    this.#fillActions(words)
    this.chart.setAttribute('aria-label', say(shown ? alternative(report) : { key: 'empty' }, words))
    this.table.replaceChildren(...(shown ? tableRows(report.runs, words) : []))
    this.#draw(true)
  }

  #fillActions(words) {
    this.actions.hidden = !this.report?.runs.length
    if (this.actions.hidden) return
    const said = html('output')
    const tell = (text) => {
      said.textContent = text
      setTimeout(() => said.replaceChildren(), 4000)
    }
    const button = (label, act) => {
      const made = html('button', { type: 'button' }, label)
      made.addEventListener('click', act)
      return made
    }
    this.actions.replaceChildren(
      button(words.closer_button, () => tell(say(this.choose(-1), words))),
      button(words.faster_button, () => tell(say(this.choose(1), words))),
      button(words.copy, async () => {
        const done = await copyText(JSON.stringify(this.report, null, 2))
        tell(done ? words.copied : words.not_copied)
      }),
      button(words.save, () => saveText(csvOf(this.report), 'adacache.csv')),
      said)
  }

  #draw(changed = false) {
    const { panels } = this, natural = chartHeight(panels)
    this.chart.hidden = !panels.length
    this.chart.style.minHeight = `${natural}px`
    this.#measure(natural)
    const size = { width: this.chart.clientWidth, height: Math.max(natural, this.chart.clientHeight) }
    if (!changed && size.width === this.size?.width && size.height === this.size.height) return
    this.size = size
    const words = this.words()
    this.drawn = panels.length && size.width > 60 ? drawChart(panels, size, (entry) => say(entry, words)) : null
    this.chart.replaceChildren(...(this.drawn ? [this.drawn.element] : []), this.tip)
    this.#point()
  }

  /** Everything but the chart has the height of its content, which depends on the width. */
  #measure(chart) {
    const others = [this.numbers, this.legend, this.summary, this.session, this.actions]
    const heights = others.map((part) => part.offsetHeight).filter((height) => height > 0)
    if (!heights.length) return
    const height = heights.reduce((sum, each) => sum + each + GAP, chart + PADDING)
    if (height === this.height) return
    this.height = height
    this.onHeight(height)
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
    const places = this.panels.flatMap(({ run }) => this.report.runs[run].steps.map((_, column) => ({ run, column })))
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
    const run = place && this.report.runs[place.run], record = run?.steps[place.column]
    this.drawn?.mark(record && place)
    this.tip.hidden = !record
    if (!record) return
    this.tip.replaceChildren(...tipLines(record, run, this.words()))
    const left = place.x + 12, fits = left + this.tip.offsetWidth <= this.chart.clientWidth
    this.tip.style.left = `${fits ? left : Math.max(0, place.x - 12 - this.tip.offsetWidth)}px`
    this.tip.style.top = `${place.top + 24}px`
  }
}

/** The chart in a sentence. */
const alternative = ({ computed_steps: computed, partial_steps: partial, skipped_steps: skipped, total_steps: total }) =>
  ({ key: 'alternative', computed, partial, skipped, total })

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
