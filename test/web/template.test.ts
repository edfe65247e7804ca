import { describe, expect, it } from 'vitest'
import { compile, render, type Values } from '../../src/web/template.ts'

const show = (source: string, values: Values, others: Record<string, string> = {}) => {
  const need = (name: string) => {
    if (!(name in others)) throw new Error(`no ${name}`)
    return compile(others[name]!)
  }
  return render(compile(source), values, { words: need, partial: need })
}

describe('templates', () => {
  it('escape every value, wherever it stands', () => {
    expect(show('<b title="{{x}}">{{x}}</b>', { x: `<i>"'&` })).toBe(
      '<b title="&lt;i&gt;&quot;&#39;&amp;">&lt;i&gt;&quot;&#39;&amp;</b>'
    )
  })

  it('do not read a value as a template', () => {
    expect(show('{{x}}', { x: '{{y}} [[z]]', y: 'no' })).toBe('{{y}} [[z]]')
    expect(show('[[w]]', { x: '{{y}}' }, { w: '<b>{{x}}</b>' })).toBe('<b>{{y}}</b>')
  })

  it('repeat sections for lists, show them for what is there, and else the inverted ones', () => {
    const source = '{{#a}}({{n}}{{#last}}.{{/last}}){{/a}}{{^a}}none{{/a}}'
    expect(show(source, { a: [{ n: 1 }, { n: 2, last: true }] })).toBe('(1)(2.)')
    for (const nothing of [undefined, null, false, '', 0, []]) expect(show(source, { a: nothing })).toBe('none')
    expect(show('{{#a}}{{a}}{{.}}{{/a}}', { a: 'x' })).toBe('xx')
  })

  it('see the inner value first, and the outer where there is none', () => {
    expect(show('{{#a}}{{n}}{{m}}{{/a}}', { a: { n: 1 }, n: 0, m: 2 })).toBe('12')
    expect(show('{{a.b.c}}', { a: { b: { c: 'deep' } } })).toBe('deep')
  })

  it('put words and other templates in, by name or by value', () => {
    const others = { w: 'hello {{name}}', other: 'goodbye' }
    expect(show('[[w]] [[*key]] {{>other}} {{>*key}}', { name: '<', key: 'other' }, others)).toBe(
      'hello &lt; goodbye goodbye goodbye'
    )
  })

  it.each(['{{x}}', '{{toString}}', '{{__proto__}}', '{{a.map}}', '[[w]]', '{{>p}}', '{{#a}}{{x}}{{/a}}'])(
    'refuse what is not there: %s',
    source => expect(() => show(source, { a: [1] })).toThrow(/asks for|no [wp]/)
  )

  it.each(['{{#a}}', '{{/a}}', '{{#a}}{{#b}}{{/a}}{{/b}}'])('refuse %s', source =>
    expect(() => compile(source)).toThrow(/end/)
  )
})
