// Texts of the Inspector. The sentences have the keys of nodes/report.py; English ones come with the report.

const en = {
  speedup: 'speedup, measured',
  steps: 'steps computed',
  memory: 'cache memory',
  preset: 'preset',
  presetReplay: 'preset, replay {replay}',
  of: '{computed} of {total}',
  empty: 'Queue the workflow to see what is computed and skipped.',
  sampling: 'Sampling: step {done} of {total}.',
  stopped: 'Sampling stopped at step {done} of {total}.',
  copy: 'Copy JSON',
  copied: 'Copied',
  notCopied: 'The browser did not allow copying',
  save: 'Save CSV',
  computed: 'computed',
  skipped: 'skipped',
  distanceKey: 'distance',
  plainKey: 'without MoReg',
  scoreKey: 'motion score',
  gradientKey: 'gradient',
  boundKey: 'codebook threshold',
  time: 'time per step (s)',
  distance: 'distance per step',
  motion: 'motion factor (MoReg)',
  step: 'step',
  rate: 'rate',
  run: 'Run {number} of {runs}: {computed} of {total} steps computed, {seconds}',
  bound: '< {bound}: rate {rate}',
  stepTitle: 'Step {step} of {total}',
  tipReason: 'why',
  tipTime: 'time',
  tipSigma: 'sigma',
  tipRate: 'steps to next compute',
  tipDistance: 'distance',
  tipRegularized: 'with MoReg',
  tipScore: 'motion score',
  tipGradient: 'motion gradient',
  tipCalls: 'calls computed',
  alternative: 'Chart of the sampling steps: {computed} of {total} computed, {skipped} skipped. {list}',
  alternativeList: 'Skipped: {steps}.',
  table: 'Sampling steps',
  reasons: {},
  sentences: {}
}

const zh = {
  speedup: '加速比（实测）',
  steps: '已计算步数',
  memory: '缓存占用',
  preset: '预设',
  presetReplay: '预设，重放方式 {replay}',
  of: '{computed} / {total}',
  empty: '运行工作流后，这里会显示哪些步被计算、哪些步被跳过。',
  sampling: '正在采样：第 {done} / {total} 步。',
  stopped: '采样在第 {done} / {total} 步停止。',
  copy: '复制 JSON',
  copied: '已复制',
  notCopied: '浏览器不允许复制',
  save: '保存 CSV',
  computed: '已计算',
  skipped: '已跳过',
  distanceKey: '距离',
  plainKey: '未经 MoReg',
  scoreKey: '运动分数',
  gradientKey: '运动梯度',
  boundKey: '码本阈值',
  time: '每步用时（秒）',
  distance: '每步距离',
  motion: '运动系数（MoReg）',
  step: '步',
  rate: '间隔',
  run: '第 {number} / {runs} 次采样：计算 {computed} / {total} 步，{seconds}',
  bound: '< {bound}：间隔 {rate}',
  stepTitle: '第 {step} / {total} 步',
  tipReason: '原因',
  tipTime: '用时',
  tipSigma: 'sigma',
  tipRate: '距下次计算的步数',
  tipDistance: '距离',
  tipRegularized: '经 MoReg',
  tipScore: '运动分数',
  tipGradient: '运动梯度',
  tipCalls: '已计算的调用',
  alternative: '采样步图表：共 {total} 步，计算 {computed} 步，跳过 {skipped} 步。{list}',
  alternativeList: '跳过的步：{steps}。',
  table: '采样步',
  reasons: {
    'first steps': '开头几步',
    'last steps': '最后几步',
    'schedule': '按计划计算',
    'skipped': '已跳过',
    'outside window': '在起止范围之外',
    'too few steps': '步数太少',
    'nothing cached for a condition': '某个条件没有缓存',
    'residual is not finite': '残差不是有限数值'
  },
  sentences: {
    not_connected: '未连接统计信息：AdaCache 被绕过，或不在此工作流中。没有它，每一步都会计算。',
    not_sampled: '带 AdaCache 的模型尚未采样。请把 AdaCache 的 MODEL 输出连接到生成此 latent 的采样器。',
    run: '第 {run} / {runs} 次采样：',
    faster: '采样用时 {seconds}；若每一步都计算，约需 {uncached}。',
    took: '采样用时 {seconds}。',
    first: '第一步用时 {first}，包含加载等一次性工作，加速比不计入这一步。',
    each: '计算一步通常用 {computed}，跳过一步平均 {skipped}。',
    phase_early: '采样的前三分之一跳过最多：{size} 步中跳过 {count} 步（第 {first} 至 {last} 步）。',
    phase_middle: '采样的中间三分之一跳过最多：{size} 步中跳过 {count} 步（第 {first} 至 {last} 步）。',
    phase_late: '采样的后三分之一跳过最多：{size} 步中跳过 {count} 步（第 {first} 至 {last} 步）。',
    too_few: '没有跳过任何步：{steps} 步太少，相邻两步之间视频变化过大。',
    window: '没有跳过任何步：start_percent {start} 与 end_percent {end} 之间没有可跳过的步。',
    forced: '没有跳过任何步：可跳过的步之后是必须计算的步。',
    rates: '没有跳过任何步：码本中的间隔全部为 1。间隔为 2 或更大才会跳过。',
    distance: '没有跳过任何步：距离始终高于 {threshold}（间隔大于 1 的最大阈值），最低为 {lowest}。',
    motion: '因为运动而没有跳过任何步：MoReg 把最低距离从 {plain} 提高到 {lowest}。',
    not_finite: '有 {count} 步的数值不是有限数（NaN），未被缓存。请检查模型和 LoRA。',
    new_condition: '有 {count} 个计划跳过的步被计算，因为该步出现了新的条件。',
    stopped: '采样在 {steps} 步中的第 {done} 步后停止：被中断或出错。'
  }
}

const LANGUAGES = { en, zh }

/** Texts for a locale of the front end, such as "en" or "zh-TW". */
export const stringsFor = (locale) => LANGUAGES[String(locale).split('-')[0]] ?? en

/** Fills {placeholders}. */
export const fill = (template, values) => template.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole)

/** The report's sentences in a language; the report's own English where there is no translation. */
export function sentences(report, strings) {
  const english = report.summary.split('\n')
  return report.explanation.map((entry, at) =>
    entry.key in strings.sentences ? fill(strings.sentences[entry.key], entry) : english[at])
}
