// What the chart shows of a run: axes and lanes. nodes/_scales.py has the same for the image.

const STEPS_OF_TEN = [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10]

function median(values) {
  const sorted = values.toSorted((a, b) => a - b), last = sorted.length - 1
  return (sorted[Math.floor(last / 2)] + sorted[Math.ceil(last / 2)]) / 2
}

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

/** Whether some conditions of a step computed and others did not. */
export const differs = ({ by_condition: letters }) => letters.includes('c') && /[sp]/.test(letters)

/** Numbers, from 1, of the conditions that a step computed ("c"), skipped ("s") or computed in part ("p"). */
export const conditionsOf = ({ by_condition: letters }, letter) =>
  [...letters].flatMap((each, at) => (each === letter ? [at + 1] : []))

/** Conditions that did not do alike: {numbers, letters}, a letter per step. Empty where all did alike at every step. */
export function conditionLanes(run) {
  if (!run.steps.some(differs)) return []
  const alike = new Map()
  for (let condition = 0; condition < run.conditions; condition++) {
    const letters = run.steps.map((record) => record.by_condition[condition] ?? '-').join('')
    alike.set(letters, [...(alike.get(letters) ?? []), condition + 1])
  }
  return [...alike].map(([letters, numbers]) => ({ numbers, letters }))
}
