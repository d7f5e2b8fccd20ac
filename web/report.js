// Numbers of the Inspector for people and for files.

const COLUMNS = ['step', 'sigma', 'computed', 'reason', 'calls', 'computed_calls', 'by_condition', 'rate', 'distance',
  'regularized_distance', 'motion_score', 'motion_gradient', 'seconds']

/** A report over runs that are still sampling; a finished one comes from the server. */
export function reportOf(runs) {
  const sum = (of) => runs.reduce((total, run) => total + of(run), 0)
  const timed = runs.filter((run) => run.speedup != null)
  const spent = timed.reduce((total, run) => total + run.seconds, 0)
  const uncached = timed.reduce((total, run) => total + run.speedup * run.seconds, 0)
  const inForce = (of) => [...new Set(runs.map(of))].join(' + ') || null
  return {
    total_steps: sum((run) => run.steps.length),
    computed_steps: sum((run) => run.computed_steps),
    partial_steps: sum((run) => run.partial_steps),
    skipped_steps: sum((run) => run.skipped_steps),
    cache_bytes: Math.max(0, ...runs.map((run) => run.cache_bytes)),
    seconds: sum((run) => run.seconds),
    speedup: spent > 0 ? uncached / spent : null,
    preset: inForce(({ settings }) => presetOf(settings)),
    replay: inForce(({ settings }) => settings.replay),
    storage: inForce(({ storage }) => storage),
    cache_device: inForce(({ settings }) => settings.cache_device),
    summary: '',
    explanation: [],
    runs
  }
}

const presetOf = ({ preset, planned_speedup: speedup }) =>
  preset === 'target' ? `target ${Number(speedup.toPrecision(6))}x` : preset

export function humanBytes(count) {
  if (count < 2 ** 20) return `${(count / 2 ** 10).toFixed(0)} KiB`
  return count < 2 ** 30 ? `${(count / 2 ** 20).toFixed(1)} MiB` : `${(count / 2 ** 30).toFixed(2)} GiB`
}

export function humanSeconds(seconds) {
  if (seconds < 0.1) return `${(seconds * 1000).toFixed(0)} ms`
  if (seconds < 59.95) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`
  return `${Math.floor(Math.round(seconds) / 60)} min ${Math.round(seconds) % 60} s`
}

/** One row per step; runs and steps count from 1. */
export function csvOf(report) {
  const rows = report.runs.flatMap((run, number) => run.steps.map((record) =>
    [number + 1, record.step + 1, ...COLUMNS.slice(1).map((name) => record[name] ?? '')].join(',')))
  return [['run', ...COLUMNS].join(','), ...rows].join('\n') + '\n'
}
