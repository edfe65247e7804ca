/**
 * The template language of templates/web: text with holes, and no logic.
 *
 * - `{{name}}`, `{{a.b}}`: a value, always escaped; one that is undefined is a mistake and throws
 * - `{{#name}}…{{/name}}`: for each item of a list, or once for anything else that is not empty; `{{^name}}…{{/name}}`: when empty
 * - `{{>name}}`: another template; `{{>*name}}`: the one whose name is the value
 * - `[[key]]`: words of the reader's language, which are templates themselves; `[[*name]]`: the words whose key is the value
 */
export type Template = readonly Part[]

type Part =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'value'; readonly path: Path }
  | { readonly kind: 'words' | 'partial'; readonly name: string }
  | { readonly kind: 'section' | 'inverted'; readonly path: Path; readonly body: Template }

/** `a.b` as its words; `.`, the innermost scope, as none. */
type Path = readonly string[]

export type Values = Readonly<Record<string, unknown>>

/** Where a template finds what it names. Both throw for what there is not. */
export interface Sources {
  words(key: string): Template
  partial(name: string): Template
}

const TAG = /\{\{([#^/>]?)([*\w.-]+)\}\}|\[\[([*\w.-]+)\]\]/g

/** @throws Error for a section that does not end, or ends another */
export function compile(source: string): Template {
  const open: { name: string; parts: Part[] }[] = [{ name: '', parts: [] }]
  const top = () => open.at(-1) as { name: string; parts: Part[] }
  let at = 0
  for (const match of source.matchAll(TAG)) {
    const [tag, sign, name = '', wordsKey] = match
    if (match.index > at) top().parts.push({ kind: 'text', text: source.slice(at, match.index) })
    at = match.index + tag.length
    if (wordsKey !== undefined) top().parts.push({ kind: 'words', name: wordsKey })
    else if (sign === '') top().parts.push({ kind: 'value', path: pathOf(name) })
    else if (sign === '>') top().parts.push({ kind: 'partial', name })
    else if (sign === '/') {
      const { name: begun } = top()
      if (begun !== name || open.length === 1) throw new Error(`{{/${name}}} ends {{${begun}}}`)
      open.pop()
    } else {
      const body: Part[] = []
      top().parts.push({ kind: sign === '#' ? 'section' : 'inverted', path: pathOf(name), body })
      open.push({ name, parts: body })
    }
  }
  if (open.length > 1) throw new Error(`{{#${top().name}}} does not end`)
  top().parts.push({ kind: 'text', text: source.slice(at) })
  return top().parts
}

const pathOf = (name: string): Path => (name === '.' ? [] : name.split('.'))

/** What the template says of these values. @throws Error for a value, template or words that are not there */
export function render(template: Template, values: Values, sources: Sources): string {
  return renderParts(template, [values], sources)
}

function renderParts(template: Template, scopes: readonly unknown[], sources: Sources): string {
  let text = ''
  for (const part of template) {
    switch (part.kind) {
      case 'text':
        text += part.text
        break
      case 'value':
        text += escapeHtml(needValue(scopes, part.path))
        break
      case 'words':
        text += renderParts(sources.words(named(scopes, part.name)), scopes, sources)
        break
      case 'partial':
        text += renderParts(sources.partial(named(scopes, part.name)), scopes, sources)
        break
      case 'section':
        for (const item of itemsOf(look(scopes, part.path))) text += renderParts(part.body, [...scopes, item], sources)
        break
      case 'inverted':
        if (itemsOf(look(scopes, part.path)).length === 0) text += renderParts(part.body, scopes, sources)
        break
    }
  }
  return text
}

const named = (scopes: readonly unknown[], name: string): string =>
  name.startsWith('*') ? needValue(scopes, pathOf(name.slice(1))) : name

function needValue(scopes: readonly unknown[], path: Path): string {
  const value = look(scopes, path)
  if (typeof value === 'string' || typeof value === 'number') return String(value)
  throw new Error(`the template asks for ${path.join('.')}, which is ${typeof value}`)
}

/** The innermost scope that knows the first word decides. */
function look(scopes: readonly unknown[], path: Path): unknown {
  if (path.length === 0) return scopes.at(-1)
  for (let index = scopes.length - 1; index >= 0; index--) {
    if (!holds(scopes[index], path[0] as string)) continue
    let value: unknown = scopes[index]
    for (const step of path) value = holds(value, step) ? value[step] : undefined
    return value
  }
  return undefined
}

/** Own properties alone: `{{constructor}}` is no value. */
const holds = (value: unknown, name: string): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.hasOwn(value, name)

function itemsOf(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value
  return value === undefined || value === null || value === false || value === '' || value === 0 ? [] : [value]
}

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;'
}

const escapeHtml = (text: string): string =>
  /[&<>"']/.test(text) ? text.replaceAll(/[&<>"']/g, character => ESCAPES[character] as string) : text
