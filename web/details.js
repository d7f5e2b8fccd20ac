// A step in words: the tooltip, the table for those who do not see the chart, and the rows of a file.

import { say } from './strings.js'

const PAPER = ['rate', 'distance', 'regularized_distance', 'motion_score', 'motion_gradient']
const COLUMNS = ['sigma', 'kind', 'reason', 'calls', 'computed_calls', 'seconds', 'miss', ...PAPER]

/** An HTML element; text goes in as text, never as markup. */
export function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

const number = (value) => (value == null ? '' : Number(value.toPrecision(4)).toString())

/** What is known of a step: pairs of a label and a value, which is '' where there is none. */
function linesOf({ paper, ...record }, words) {
  return [
    [words.why, record.kind === 'computed' ? words.reasons[record.reason] ?? record.reason : ''],
    [words.seconds, number(record.seconds)],
    [words.sigma, number(record.sigma)],
    [words.miss, number(record.miss)],
    [words.next, number(paper?.rate)],
    [words.distance, number(paper?.distance)],
    [words.regularized, paper?.motion_score == null ? '' : number(paper.regularized_distance)],
    [words.score, number(paper?.motion_score)],
    [words.gradient, number(paper?.motion_gradient)],
    [words.calls, say({ key: 'of', computed: record.computed_calls, total: record.calls }, words)]
  ]
}

/** Content of the tooltip of a step. */
export function tipLines(record, run, words) {
  const kind = words[record.kind]
  return [
    html('strong', {}, say({ key: 'step_title', step: record.step + 1, total: run.total_steps, kind }, words)),
    ...linesOf(record, words).filter(([, value]) => value !== '')
      .map(([label, value]) => html('div', {}, html('span', {}, label), html('span', {}, value)))
  ]
}

/** Content of the table: a row per step, and only columns that say something. */
export function tableRows(runs, words) {
  const rows = runs.flatMap((run, at) => run.steps.map((record) => [
    [words.run_column, runs.length > 1 ? at + 1 : ''], [words.step, record.step + 1], [words.kind, words[record.kind]],
    ...linesOf(record, words)
  ]))
  const columns = (rows[0] ?? []).map((_, at) => at).filter((at) => rows.some((row) => row[at][1] !== ''))
  return [
    html('caption', {}, words.table),
    html('tr', {}, ...columns.map((at) => html('th', { scope: 'col' }, rows[0][at][0]))),
    ...rows.map((row) => html('tr', {}, ...columns.map((at) => html('td', {}, row[at][1]))))
  ]
}

/** The last results of the session, a row each. */
export function sessionRows(rows, words) {
  const value = ({ equal, signal_to_error_db: db }) => (equal ? words.equal : db == null ? '' : `${db.toFixed(1)} dB`)
  const columns = [
    [words.preset_label, (row) => row.preset],
    [words.steps_label, (row) => say({ key: 'of', computed: row.computed_steps, total: row.total_steps }, words)],
    [words.time_label, (row) => row.took],
    [words.reference_label, (row) => (row.reference ? value(row.reference) : '')]
  ].filter(([, of]) => rows.some((row) => of(row) !== ''))
  return [
    html('tr', {}, ...columns.map(([label]) => html('th', { scope: 'col' }, label))),
    ...rows.map((row) => html('tr', {}, ...columns.map(([, of]) => html('td', {}, of(row)))))
  ]
}

/** One row per step, with what the whole is worth; runs and steps count from 1. */
export function csvOf({ runs, reference }) {
  const close = reference?.equal ? 'equal' : reference?.signal_to_error_db ?? ''
  const rows = runs.flatMap((run, at) => run.steps.map(({ paper, ...record }) =>
    [at + 1, record.step + 1, ...COLUMNS.map((name) => ({ ...record, ...paper })[name] ?? ''), close].join(',')))
  return [['run', 'step', ...COLUMNS, 'reference_db'].join(','), ...rows].join('\n') + '\n'
}
