import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { parsePublicKey } from '../../src/directory/public-key.ts'
import { reasons, UserError } from '../../src/errors.ts'
import { preferredLanguage } from '../../src/web/language.ts'
import { Pages } from '../../src/web/pages.ts'

const directory = join(import.meta.dirname, '../../templates/web')
const read = (file: string) => readFileSync(join(directory, file), 'utf8')

function keysOf(tree: object, prefix = ''): string[] {
  return Object.entries(tree).flatMap(([name, value]) =>
    typeof value === 'string' ? [prefix + name] : keysOf(value as object, `${prefix}${name}.`)
  )
}
const wordsOf = (language: string) => {
  const { said: _, ...words } = parse(read(`words.${language}.yaml`)) as { said?: object }
  return keysOf(words).toSorted()
}

describe('the words of the pages', () => {
  it('are the same in both languages', () => {
    expect(wordsOf('zh')).toEqual(wordsOf('en'))
  })

  it('are all there, and no template asks for others', () => {
    const asked = globSync('*.html', { cwd: directory }).flatMap(file =>
      [...read(file).matchAll(/\[\[([\w.-]+)\]\]/g)].map(([, key]) => key!)
    )
    const known = new Set(wordsOf('en'))
    expect(asked.filter(key => !known.has(key))).toEqual([])
  })

  it('take the same values in both languages', () => {
    const flat = (language: string) => {
      const { said: _, ...words } = parse(read(`words.${language}.yaml`)) as { said?: object }
      return words as Record<string, unknown>
    }
    const values = (tree: unknown): unknown =>
      typeof tree === 'string'
        ? [...new Set([...tree.matchAll(/\{\{([\w.]+)\}\}/g)].map(([, name = '']) => name))].toSorted()
        : Object.fromEntries(Object.entries(tree as object).map(([name, value]) => [name, values(value)]))
    expect(values(flat('zh'))).toEqual(values(flat('en')))
  })

  it('carry over as many numbers and names in Chinese as the English sentence has', () => {
    const { said } = parse(read('words.zh.yaml')) as { said: Record<string, string> }
    const signs = (text: string) => (text.match(/[#*]/g) ?? []).toSorted().join('')
    expect(Object.entries(said).filter(([english, chinese]) => signs(english) !== signs(chinese))).toEqual([])
    const pages = new Pages()
    expect(pages.say('Try again with: ssh titan-manage start. If it stays so, tell your admin.', 'zh')).toBe(
      '请再试一次：ssh titan-manage start。如果仍然不行，请告诉管理员。'
    )
    expect(pages.say('A member may have 20 keys.', 'zh')).toBe('每人最多 20 把密钥。')
    expect(pages.say('A sentence that nobody knows.', 'zh')).toBe('A sentence that nobody knows.')
  })

  it('explain in Chinese every reason that a page can meet', () => {
    const pages = new Pages()
    const ofCommands = [
      'no-config',
      'bad-config',
      'bad-recipe',
      'newer-database',
      'cannot-build',
      'locked-state',
      'image-unfit',
      'command-line-refused'
    ]
    const untold = reasons
      .filter(reason => !ofCommands.includes(reason))
      .filter(reason => !/[\u4e00-\u9fff]/.test(pages.explain(new UserError(reason), 'zh').what))
    expect(untold).toEqual([])
  })

  it.each([
    ['-----BEGIN OPENSSH PRIVATE KEY-----', '私钥'],
    ['ssh-dss AAAA', 'DSA'],
    ['ssh-ed25519 AAAA', '不完整'],
    ['no-port-forwarding ssh-ed25519 AAAA', '选项'],
    ['hello', '不是可以使用的公钥']
  ])('refuse the key %s in Chinese', (line, told) => {
    let error: UserError | undefined
    try {
      parsePublicKey(line)
    } catch (thrown) {
      error = thrown as UserError
    }
    const { what, details, hint } = new Pages().explain(error!, 'zh')
    expect(what + details).toContain(told)
    expect(hint).toMatch(/[\u4e00-\u9fff]/)
  })
})

describe('the language', () => {
  it.each([
    [undefined, 'en'],
    ['', 'en'],
    ['zh-CN,zh;q=0.9,en;q=0.8', 'zh'],
    ['en-US,en;q=0.9,zh;q=0.8', 'en'],
    ['de, zh-TW;q=0.5, en;q=0.4', 'zh'],
    ['fr', 'en'],
    ['zh;q=0, en;q=0.1', 'en'],
    [';;;,q=x,zh', 'zh']
  ] as const)('of a browser that accepts %s is %s', (accepted, language) => {
    expect(preferredLanguage(accepted)).toBe(language)
  })
})
