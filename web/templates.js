// Notes and titles of this pack's templates in ComfyUI's language, from locales/*/main.json.

import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

// English text -> the same in ComfyUI's language; empty in English and in languages that we do not have.
async function translations() {
  const language = app.extensionManager.setting.get('Comfy.Locale')
  const served = await (await api.fetchApi('/i18n')).json()
  return served[language]?.op4ksrTemplates ?? {}
}

app.registerExtension({
  name: 'op4ksr.templates',

  // Before the graph is made, so that it does not count as changed. A text that is not word for word ours stays.
  async beforeConfigureGraph(graph) {
    const nodes = graph.nodes ?? []
    if (!nodes.some((node) => node.type.startsWith('OP4KSR_'))) return
    const texts = await translations()
    const translated = (text) => (Object.hasOwn(texts, text) ? texts[text] : text)
    for (const titled of [...nodes, ...(graph.groups ?? [])]) {
      if (titled.title) titled.title = translated(titled.title)
    }
    for (const note of nodes.filter((node) => node.type === 'MarkdownNote')) {
      note.widgets_values = note.widgets_values.map(translated)
    }
  },
})
