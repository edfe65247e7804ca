// Which part may import which (see CONTRIBUTING.md). Prints one line a violation and exits 1 if there is any.
// A script of ours because the linter's import rules see neither dynamic imports nor the difference between a type and a value.
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import ts from 'typescript'

const GROUND = ['lxd', 'db']
const MIDDLE = ['command', 'snapshots', 'containers', 'directory', 'operations']

/** Each part's own parts below it; `errors` and `log` go without saying. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  main: ['admin', 'command', 'config'],
  admin: ['app', 'config', 'ssh', 'web', 'forced-commands', ...MIDDLE, ...GROUND],
  app: ['config', 'ssh', 'web', 'forced-commands', ...MIDDLE, ...GROUND],
  ssh: [...MIDDLE, ...GROUND],
  web: [...MIDDLE, ...GROUND],
  'forced-commands': [...MIDDLE, ...GROUND],
  ...Object.fromEntries(MIDDLE.map(part => [part, [...MIDDLE, ...GROUND]])),
  ...Object.fromEntries(GROUND.map(part => [part, []])),
  config: [],
  errors: [],
  log: []
}
const FOR_ALL = ['errors', 'log']
/** Whose types, besides those of the parts below, anybody may name. */
const TYPES_FOR_ALL = [...FOR_ALL, 'config']

/** ssh2 stays behind one wrapper (docs/decisions/0003); its key parser may serve the directory. */
const MAY_IMPORT_SSH2 = ['ssh', 'directory']

interface Import {
  specifier: string
  typeOnly: boolean
  line: number
}

const root = resolve(process.argv[2] ?? join(import.meta.dirname, '..'))
const faults = globSync('{src,forced-commands}/**/*.ts', { cwd: root }).toSorted().flatMap(check)
for (const fault of faults) console.log(fault)
process.exit(faults.length === 0 ? 0 : 1)

function check(file: string): string[] {
  const source = ts.createSourceFile(file, readFileSync(join(root, file), 'utf8'), ts.ScriptTarget.Latest, true)
  const part = partOf(file)
  const at = (node: ts.Node) => source.getLineAndCharacterOfPosition(node.getStart()).line + 1
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    const imported = importOf(node, at(node))
    if (imported) {
      const fault = judge(file, part, imported)
      if (fault !== undefined) found.push(`${file}:${imported.line}: ${fault}`)
    }
    if (part !== 'config' && readsEnvironment(node)) {
      found.push(`${file}:${at(node)}: only config.ts reads the environment`)
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

/** `src/ssh/server.ts` → ssh, `src/app.ts` → app, `forced-commands/stop.ts` → forced-commands; undefined outside. */
function partOf(file: string): string | undefined {
  return /^(?:src\/)?([a-z-]+)(?:\/|\.ts$)/.exec(file)?.[1]
}

function importOf(node: ts.Node, line: number): Import | undefined {
  if (ts.isImportDeclaration(node)) {
    return found(node.moduleSpecifier, node.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword)
  }
  if (ts.isExportDeclaration(node) && node.moduleSpecifier) return found(node.moduleSpecifier, node.isTypeOnly)
  if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) return found(node.argument.literal, true)
  if (ts.isCallExpression(node) && node.arguments[0]) {
    const called = node.expression
    if (called.kind === ts.SyntaxKind.ImportKeyword || (ts.isIdentifier(called) && called.text === 'require')) {
      return found(node.arguments[0], false)
    }
  }
  return undefined

  function found(specifier: ts.Node, typeOnly: boolean): Import {
    return { specifier: ts.isStringLiteralLike(specifier) ? specifier.text : '', typeOnly, line }
  }
}

function judge(file: string, part: string | undefined, { specifier, typeOnly }: Import): string | undefined {
  if (part === undefined || !(part in MAY_IMPORT)) return 'this file belongs to no part: add it to MAY_IMPORT'
  if (specifier === '') return 'an import whose target cannot be read here'
  if (!specifier.startsWith('.')) {
    const isSsh2 = specifier.split('/')[0] === 'ssh2'
    return isSsh2 && !MAY_IMPORT_SSH2.includes(part) ? 'only src/ssh imports ssh2' : undefined
  }
  const target = relative(root, resolve(dirname(join(root, file)), specifier))
  const other = /^(src|forced-commands)\//.test(target) ? partOf(target) : undefined
  if (other === part) return undefined
  if (other === undefined) return `${target} is outside of what runs`
  const forAll = FOR_ALL.includes(part) ? [] : typeOnly ? TYPES_FOR_ALL : FOR_ALL
  return [...(MAY_IMPORT[part] ?? []), ...forAll].includes(other)
    ? undefined
    : `${part} may not import ${other} (${target})`
}

/** `process.env`, `process['env']`, and env taken from node:process. */
function readsEnvironment(node: ts.Node): boolean {
  if (ts.isPropertyAccessExpression(node)) return node.name.text === 'env' && node.expression.getText() === 'process'
  if (ts.isElementAccessExpression(node)) {
    return node.expression.getText() === 'process' && /^['"`]env['"`]$/.test(node.argumentExpression.getText())
  }
  return ts.isImportSpecifier(node) && (node.propertyName ?? node.name).text === 'env'
}
