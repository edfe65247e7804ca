import { createHash } from 'node:crypto'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { UserError } from '../errors.ts'
import { LANGUAGES, type Language } from './language.ts'
import { compile, render, type Template, type Values } from './template.ts'

const DIRECTORY = join(import.meta.dirname, '../../templates/web')

const ASSET_TYPES: Readonly<Record<string, string>> = {
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml'
}

export interface Asset {
  readonly type: string
  readonly content: Buffer
}

interface Sentence {
  readonly english: RegExp
  readonly text: string
}

interface WordsTree {
  readonly [name: string]: string | WordsTree
}
const wordsSchema: z.ZodType<WordsTree> = z.record(
  z.string(),
  z.lazy(() => z.union([z.string(), wordsSchema]))
)

/** Everything in templates/web, read and compiled once. */
export class Pages {
  readonly assets: ReadonlyMap<string, Asset>
  /** Changes with the assets: browsers may keep them for ever under this name. */
  readonly assetsVersion: string
  readonly #templates: ReadonlyMap<string, Template>
  readonly #words = new Map<Language, ReadonlyMap<string, Template>>()
  readonly #said = new Map<Language, readonly Sentence[]>()

  constructor() {
    this.#templates = new Map(read('*.html').map(([name, text]) => [name, compile(squeeze(text))]))
    this.assets = new Map(
      read('*.{css,js,svg}', false).map(([name, text]) => [
        name,
        { type: ASSET_TYPES[name.split('.').at(-1) as string] as string, content: Buffer.from(text) }
      ])
    )
    const hash = createHash('sha256')
    for (const { content } of this.assets.values()) hash.update(content)
    this.assetsVersion = hash.digest('hex').slice(0, 12)
    for (const language of LANGUAGES) {
      const { said = {}, ...words } = wordsSchema.parse(
        parse(readFileSync(join(DIRECTORY, `words.${language}.yaml`), 'utf8'))
      )
      this.#words.set(language, new Map([...flatten(words)].map(([key, text]) => [key, compile(text)])))
      const sentences = flatten(typeof said === 'string' ? {} : said)
      this.#said.set(language, [...sentences].map(asSentence))
    }
  }

  /** @throws Error for a template, words or a value that is missing: a mistake of ours */
  render(name: string, language: Language, values: Values): string {
    const words = this.#words.get(language) as ReadonlyMap<string, Template>
    return render(need(this.#templates, name), values, {
      words: key => need(words, key),
      partial: partial => this.#templates.get(`${partial}.${language}`) ?? need(this.#templates, partial)
    })
  }

  /** The words of a key alone, for what is no page. */
  words(key: string, language: Language, values: Values = {}): string {
    const words = this.#words.get(language) as ReadonlyMap<string, Template>
    const sources = { words: (other: string) => need(words, other), partial: (other: string) => need(words, other) }
    return render(need(words, key), values, sources)
  }

  /** What an error says, in the reader's language as far as the sentence is known there. */
  explain(error: UserError, language: Language): { what: string; details: string; hint: string } {
    const { message: what } = new UserError(error.reason)
    const translate = (sentence: string | undefined) => this.say(sentence ?? '', language)
    return { what: translate(what), details: translate(error.details), hint: translate(error.hint) }
  }

  /** A sentence of berth's in the reader's language, found by its English; numbers and names in it are carried over in their order. */
  say(sentence: string, language: Language): string {
    for (const { english, text } of this.#said.get(language) ?? []) {
      const found = english.exec(sentence)
      const values = found?.slice(1) ?? []
      if (found) return text.replaceAll(/[#*]/g, () => values.shift() ?? '')
    }
    return sentence
  }
}

function read(pattern: string, stripped = true): [name: string, text: string][] {
  return globSync(pattern, { cwd: DIRECTORY })
    .toSorted()
    .map(file => [stripped ? file.replace(/\.html$/, '') : file, readFileSync(join(DIRECTORY, file), 'utf8')])
}

/** Indentation is for those who write templates, except in a `pre`. */
const squeeze = (html: string): string =>
  html
    .split(/(<pre[^]*?<\/pre>)/)
    .map(part => (part.startsWith('<pre') ? part : part.replaceAll(/^[ \t]+/gm, '').replaceAll(/\n+/g, '\n')))
    .join('')

function flatten(tree: WordsTree, prefix = ''): Map<string, string> {
  const flat = new Map<string, string>()
  for (const [name, value] of Object.entries(tree)) {
    if (typeof value === 'string') flat.set(prefix + name, value)
    else for (const [key, text] of flatten(value, `${prefix}${name}.`)) flat.set(key, text)
  }
  return flat
}

function need<T>(map: ReadonlyMap<string, T>, name: string): T {
  const found = map.get(name)
  if (found === undefined) throw new Error(`templates/web has no ${name}`)
  return found
}

/** `#` stands for a number, `*` for one word. */
function asSentence([key, text]: [string, string]): Sentence {
  const pattern = key
    .replaceAll(/[.?()[\]+^$|{}\\]/g, '\\$&')
    .replaceAll('#', '(\\d+)')
    .replaceAll('*', '(\\S+)')
  return { english: new RegExp(`^${pattern}$`), text }
}
