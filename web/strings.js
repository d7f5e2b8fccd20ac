// Texts of the Inspector: locales/*/main.json, which ComfyUI serves.

import { api } from '../../scripts/api.js'

const languages = await (await api.fetchApi('/i18n')).json()

/** Texts for a locale of the front end, such as "en" or "zh-TW". */
export const wordsFor = (locale) => (languages[String(locale).split('-')[0]]?.adacache ?? languages.en.adacache)

/** An entry of the report ({key, and values for the placeholders of its text}) in a language; text stays as it is. */
export function say(entry, words) {
  if (typeof entry === 'string') return entry
  return words[entry.key].replace(/\{(\w+)\}/g, (_, name) => words.because[entry[name]] ?? entry[name])
}
