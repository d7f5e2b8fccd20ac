// A step in words: the tooltip, and the table for those who do not see the chart.

import { conditionsOf, differs } from './scales.js'
import { humanSeconds } from './report.js'
import { fill } from './strings.js'

/** An HTML element; text goes in as text, never as markup. */
export function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

const number = (value) => (value == null ? '' : Number(value.toPrecision(4)).toString())
const state = (record, strings) =>
  record.computed ? strings.computed : record.partial ? strings.partial : strings.skipped
const reason = (record, strings) => strings.reasons[record.reason] ?? record.reason

/** Content of the tooltip of a step. */
export function tipLines(record, run, strings) {
  const conditions = (letter) => (differs(record) ? conditionsOf(record, letter).join(', ') : '')
  const lines = [
    [strings.tipReason, record.computed ? reason(record, strings) : ''],
    [strings.tipTime, humanSeconds(record.seconds)],
    [strings.tipSigma, number(record.sigma)],
    [strings.tipRate, number(record.rate)],
    [strings.tipDistance, number(record.distance)],
    [strings.tipRegularized, record.motion_score == null ? '' : number(record.regularized_distance)],
    [strings.tipScore, number(record.motion_score)],
    [strings.tipGradient, number(record.motion_gradient)],
    [strings.tipCalls, fill(strings.of, { computed: record.computed_calls, total: record.calls })],
    [strings.tipComputed, conditions('c')],
    [strings.tipPartial, conditions('p')],
    [strings.tipSkipped, conditions('s')]
  ]
  const title = fill(strings.stepTitle, { step: record.step + 1, total: run.total_steps })
  return [
    html('strong', {}, `${title}: ${state(record, strings)}`),
    ...lines.filter(([, value]) => value !== '')
      .map(([label, value]) => html('div', {}, html('span', {}, label), html('span', {}, value)))
  ]
}

/** Where and in which form residuals were kept. */
export function memoryLabel({ storage, cache_device: device }, strings) {
  const place = device === 'system memory' ? strings.memorySystem : strings.memory
  return storage === 'output' ? fill(strings.outputsOnly, { place }) : place
}

/** Noise levels of a run: of two experts, the one for high noise has the larger ones. */
export function sigmaSpan({ steps }, strings) {
  const [first, last] = [steps[0], steps.at(-1)].map((record) => Number(record?.sigma.toPrecision(3)))
  return steps.length ? fill(strings.span, { first, last }) : ''
}

/** The chart in a sentence. */
export function alternative(report, strings) {
  const lists = report.runs.map(({ steps }, at) => {
    const skipped = steps.filter((record) => !record.computed && !record.partial).map((record) => record.step + 1).join(', ')
    const list = skipped && fill(strings.alternativeList, { steps: skipped })
    return list && report.runs.length > 1 ? fill(strings.alternativeRun, { run: at + 1, list }) : list
  })
  const sentence = fill(strings.alternative, {
    computed: report.computed_steps, total: report.total_steps, skipped: report.skipped_steps,
    partial: report.partial_steps ? fill(strings.alternativePartial, { count: report.partial_steps }) : '',
    list: lists.filter(Boolean).join(' ')
  })
  return `${sentence} ${strings.keys}`
}

/** Content of the table: a row per step, and only columns that say something. */
export function tableRows(report, strings) {
  const rows = report.runs.flatMap((run, at) => run.steps.map((record) => ({ run: at + 1, record })))
  const columns = [
    [strings.tableRun, ({ run }) => (report.runs.length > 1 ? run : '')],
    [strings.step, ({ record }) => record.step + 1],
    [strings.computed, ({ record }) => state(record, strings)],
    [strings.tipReason, ({ record }) => reason(record, strings)],
    [strings.tipTime, ({ record }) => humanSeconds(record.seconds)],
    [strings.rate, ({ record }) => number(record.rate)],
    [strings.distanceKey, ({ record }) => number(record.distance)],
    [strings.tipRegularized, ({ record }) => (record.motion_score == null ? '' : number(record.regularized_distance))],
    [strings.tipScore, ({ record }) => number(record.motion_score)],
    [strings.tipGradient, ({ record }) => number(record.motion_gradient)],
    [strings.tipComputed, ({ record }) => (differs(record) ? conditionsOf(record, 'c').join(', ') : '')]
  ].filter(([, of]) => rows.some((row) => of(row) !== ''))
  return [
    html('caption', {}, strings.table),
    html('tr', {}, ...columns.map(([head]) => html('th', { scope: 'col' }, head))),
    ...rows.map((row) => html('tr', {}, ...columns.map(([, of]) => html('td', {}, of(row)))))
  ]
}
