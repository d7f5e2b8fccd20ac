// The AdaCache Inspector in the browser: a chart in the node, live while sampling.

import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'
import { InspectorView } from './inspector.js'
import { say, wordsFor } from './strings.js'

const NODE = 'AdaCacheInspector'
const WIDTH = 460
const LIVE = 'AdaCache.LiveUpdates'
const DEFAULT_PRESET = 'AdaCache.DefaultPreset'
const { AdaCache: { input } } = await (await api.fetchApi('/object_info/AdaCache')).json()
const PRESETS = input.required.preset[1].options.map(({ key }) => key)

const CLOSEST_FIRST = ['quality', 'balanced', 'fast']

const setting = (name) => app.extensionManager?.setting?.get(name)
const words = () => wordsFor(setting('Comfy.Locale') ?? 'en')
const rootGraph = () => app.rootGraph ?? app.graph

/** A node by execution id: "9", or "4:9" for node 9 inside the subgraph of node 4. */
function nodeByExecutionId(id) {
  const path = String(id).split(':')
  const last = path.pop()
  const graph = path.reduce((outer, part) => outer?.getNodeById(part)?.subgraph, rootGraph())
  return graph?.getNodeById(last)
}

/** A node by locator id: "9", or "UUID:9" for node 9 inside the subgraph of that definition. */
function nodeByLocatorId(id) {
  const [first, second] = String(id).split(':')
  return second === undefined ? rootGraph()?.getNodeById(first) : rootGraph()?.subgraphs?.get(first)?.getNodeById(second)
}

class Inspector {
  constructor(node) {
    this.node = node
    this.prompt = this.completed = null
    this.view = new InspectorView(words, (height) => this.#resize(height), (by) => this.#choose(by))
    const options = { serialize: false, hideOnZoom: false, getMinHeight: () => this.view.height + 2 * 10 }
    const widget = node.addDOMWidget('chart', 'ADACACHE_CHART', this.view.element, options)
    widget.serialize = false
    // Vue nodes zoom by themselves; the canvas lies beside this element, not around it.
    this.view.element.addEventListener('wheel', (event) => {
      if (!setting('Comfy.VueNodes.Enabled')) app.canvas.processMouseWheel?.(event)
    })
  }

  #resize(height) {
    const { node } = this
    this.view.element.style.minHeight = `${height}px`
    // Or else the canvas renderer draws the node before it grows, and not again.
    const least = node.computeSize()[1]
    if (node.size[1] < least) node.setSize([node.size[0], least])
    node.setDirtyCanvas?.(true, true)
  }

  /** Give the AdaCache node whose statistics come in the next preset that is faster (1) or closer (-1). */
  #choose(by) {
    const { inputs } = this.node
    const sources = inputs.map(({ name }, at) => name.startsWith('statistics') && this.node.getInputNode(at))
    const widgets = sources.flatMap((source) => source?.widgets?.filter(({ name }) => name === 'preset') ?? [])
    if (!widgets.length) return { key: 'not_found' }
    const at = CLOSEST_FIRST.indexOf(widgets[0].value)
    const preset = CLOSEST_FIRST[at < 0 ? 1 + by : at + by]
    if (!preset) return { key: 'at_the_end', preset: widgets[0].value }
    for (const widget of widgets) widget.value = preset
    this.node.setDirtyCanvas?.(true, true)
    return { key: 'chosen', preset }
  }

  complete({ adacache: [report], adacache_chart: [chart] }) {
    if (report === this.view.report) return
    this.completed = this.prompt
    this.view.show(report, chart)
  }

  progress({ prompt_id: prompt, report, chart }) {
    // A sampler after the inspector: its report is out already.
    if (prompt === this.completed) return
    this.prompt = prompt
    this.shown = { report, chart }
    this.view.show(report, chart, true)
  }

  /** Nothing more comes of this prompt. */
  stop(prompt) {
    if (prompt !== this.prompt || prompt === this.completed) return
    const { report, chart } = this.shown
    this.view.show({ ...report, explanation: report.if_stopped ?? report.explanation }, chart)
  }
}

const inspectors = new WeakMap()

function attach(node) {
  const inspector = new Inspector(node)
  inspectors.set(node, inspector)
  node.setSize?.([Math.max(node.size[0], WIDTH), node.size[1]])
  const { onExecuted, onRemoved } = node
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments)
    if (output?.adacache) inspector.complete(output)
  }
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments)
    inspector.view.dispose()
  }
}

const badges = new WeakMap()

/** A badge for what the node's last run came to, empty until then. */
function addBadge(node) {
  // Vue nodes draw badges anew when a widget's value changes that a badge reads, and in no other way.
  const said = node.addWidget('text', 'adacache_badge', '', null, { serialize: false, hidden: true })
  Object.assign(said, { serialize: false, hidden: true })
  badges.set(node, said)
  node.badges.push(() => new LGraphBadge({ text: said.value }))
}

/** For a node added by hand. A pasted one gets its own values after this; a loaded one may lack some. */
function applyDefaultPreset(node) {
  if (app.configuringGraph) return
  const widget = node.widgets?.find(({ name }) => name === 'preset')
  if (widget && PRESETS.includes(setting(DEFAULT_PRESET))) widget.value = setting(DEFAULT_PRESET)
}

function loadStyle() {
  const link = document.createElement('link')
  link.rel = 'stylesheet'
  link.href = new URL('./adacache.css', import.meta.url).href
  document.head.append(link)
}

app.registerExtension({
  name: 'AdaCache.Inspector',
  settings: [
    {
      id: LIVE,
      name: 'Fill the Inspector chart while sampling',
      tooltip: 'Off, the chart appears when the Inspector has run.',
      category: ['AdaCache', 'Inspector', 'LiveUpdates'],
      type: 'boolean',
      defaultValue: true
    },
    {
      id: DEFAULT_PRESET,
      name: 'Preset of new AdaCache nodes',
      tooltip: 'Workflows and pasted nodes keep their own.',
      category: ['AdaCache', 'AdaCache', 'DefaultPreset'],
      type: 'combo',
      options: PRESETS,
      defaultValue: PRESETS[0]
    }
  ],
  setup() {
    loadStyle()
    api.addEventListener('adacache.progress', ({ detail }) => {
      const node = nodeByExecutionId(detail.node)
      if (detail.report.runs.at(-1).finished && badges.has(node)) {
        badges.get(node).value = say(detail.badge, words())
        node.setDirtyCanvas(true, true)
      }
      if (setting(LIVE) === false) return
      for (const id of detail.inspectors) inspectors.get(nodeByExecutionId(id))?.progress(detail)
    })
    for (const event of ['execution_interrupted', 'execution_error', 'execution_success']) {
      api.addEventListener(event, ({ detail }) => {
        for (const node of allNodes(rootGraph())) inspectors.get(node)?.stop(detail.prompt_id)
      })
    }
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node)
    if (node.comfyClass === 'AdaCache') {
      applyDefaultPreset(node)
      addBadge(node)
    }
  },
  // A tab that is opened again, and a job of the old menu's history, arrive here only; the latter's outputs are filled
  // in after this call.
  onNodeOutputsUpdated() {
    queueMicrotask(() => showOutputs(app.nodeOutputs))
  },
  // Undo makes all nodes anew. A workflow gets its name some time after this call.
  afterConfigureGraph() {
    showOutputs(app.nodeOutputs)
    setTimeout(showJobOfHistory, 1000)
  }
})

/** Reports by locator or execution id. */
function showOutputs(outputs) {
  for (const [id, output] of Object.entries(outputs ?? {})) {
    const inspector = inspectors.get(nodeByLocatorId(id) ?? nodeByExecutionId(id))
    if (output?.adacache) inspector?.complete(output)
  }
}

/** The new menu opens a job of the history as a workflow of this name, and leaves its outputs behind. */
async function showJobOfHistory() {
  const name = app.extensionManager?.workflow?.activeWorkflow?.filename
  const [, id] = name?.match(/^Job ([0-9a-f-]{36})/) ?? []
  // Not over the results of a run in that tab.
  const empty = [...allNodes(rootGraph())].some((node) => inspectors.has(node) && !inspectors.get(node).view.report)
  if (!id || !empty) return
  const history = await (await api.fetchApi(`/history/${id}`)).json()
  showOutputs(history[id]?.outputs)
}

function* allNodes(graph) {
  for (const node of graph?.nodes ?? []) {
    yield node
    if (node.subgraph) yield* allNodes(node.subgraph)
  }
}
