import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Console } from '../console.ts'
import { type Ran, runProgram } from './run-program.ts'
import { berthArgv, STAGE_DIRECTORY, type Stage } from './stage.ts'

/** A line that did not do what it should. */
export class DemoFailure extends Error {}

interface Line {
  /** What is shown as typed. */
  readonly typed: string
  readonly argv: readonly string[]
  /** Its output must look like this; the exit code must be 0 in any case. */
  readonly answer?: RegExp
  /** As the shell's `>>`: standard output goes there instead of the screen. */
  readonly appendTo?: string
}

/** Plays the main job with the real OpenSSH client, line by line. @returns how many lines were typed @throws DemoFailure */
export async function play(stage: Stage, console: Console, signal: AbortSignal): Promise<number> {
  const { user, node, sshConfig, identityFile } = stage
  const { bold, green, dim } = console.colors
  const knownHosts = join(STAGE_DIRECTORY, 'known_hosts')
  const ssh = ['ssh', '-F', sshConfig]
  const onNode = (...words: string[]): Line => ({
    typed: `ssh ${node} ${words.join(' ')}`,
    argv: [...ssh, node, ...words]
  })
  const manage = (words: string, answer: RegExp): Line => ({
    typed: `ssh ${node}-manage ${words}`.trimEnd(),
    argv: [...ssh, `${node}-manage`, ...words.split(' ').filter(Boolean)],
    answer
  })
  let count = 0

  const type = async ({ typed, argv, answer, appendTo }: Line): Promise<Ran> => {
    console.out(`${green('$')} ${bold(typed)}`)
    const onLine = (line: string) => console.out(line === '' ? '' : `  ${line}`)
    const live = appendTo === undefined ? { onLine } : {}
    const ran = await runProgram(argv, { signal, cwd: STAGE_DIRECTORY, ...live })
    if (appendTo !== undefined) appendFileSync(appendTo, ran.stdout)
    if (appendTo !== undefined && ran.code !== 0) onLine(ran.shown.trimEnd())
    if (ran.code !== 0) throw new DemoFailure(`\`${typed}\` ended with exit code ${ran.code} instead of 0.`)
    if (answer && !answer.test(ran.stdout))
      throw new DemoFailure(`\`${typed}\` should have answered ${String(answer)}.`)
    count++
    return ran
  }
  const tell = (text: string) => console.out(`\n${dim(`# ${text}`)}`)

  writeFileSync(sshConfig, clientSettings(identityFile, knownHosts))

  tell('The admin makes an invite…')
  const invited = await type({ typed: `berth invite ${user}`, argv: berthArgv('invite', user), answer: /enroll@/ })

  tell(`…and sends it to ${user}, who has no SSH key yet, and trusts the host at first sight (later never again).`)
  const keygen = ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', `${user}@laptop`]
  await type({ typed: 'ssh-keygen -t ed25519', argv: [...keygen, '-f', identityFile] })
  const enrolLine = /^\s*(ssh .*enroll@.*)$/m.exec(invited.stdout)?.[1] ?? ''
  const trustOnce = ['-o', 'StrictHostKeyChecking=accept-new']
  const enrolled = await type({
    typed: enrolLine,
    argv: [...ssh, ...trustOnce, ...enrolLine.replace('~/.ssh/id_ed25519', identityFile).split(' ').slice(1)],
    answer: /enrolled for/
  })

  tell('Two lines, once in life: the client configuration, and the host keys of everything.')
  for (const [verb, file] of [
    ['config', sshConfig],
    ['known-hosts', knownHosts]
  ] as const) {
    const typed = new RegExp(`^\\s*(ssh .* ${verb} >> .*)$`, 'm').exec(enrolled.stdout)?.[1] ?? ''
    const words = typed
      .replace(/ >> .*/, '')
      .split(' ')
      .slice(1)
    await type({ typed, argv: [...ssh, ...words], appendTo: file, answer: /\S/ })
  }

  tell('One line, once a node: the container.')
  const register = `register@${node}-manage`
  await type({ typed: `ssh ${register} ${user}`, argv: [...ssh, register, user], answer: /ready/ })
  await type(manage('status', /running/))

  tell('Into the container, with root rights there, and a file along.')
  await type({ ...onNode('id'), answer: new RegExp(`^uid=\\d+\\(${user}\\)`) })
  await type(onNode('sudo', 'true'))
  const results = 'results.txt'
  writeFileSync(join(STAGE_DIRECTORY, results), `epoch 1: loss 0.42 (${new Date().toISOString()})\n`)
  await type({ typed: `scp ${results} ${node}:`, argv: ['scp', '-F', sshConfig, results, `${node}:`] })
  await expectResults()

  tell('Stop it, twice to be sure, and start it again: the file is still there.')
  await type(manage('stop', /^Stopped/))
  await type(manage('stop', /stopped already/))
  await type(manage('', /runs on/))
  await expectResults()

  tell('And for everything else:')
  await type(manage('help', /status/))
  return count

  async function expectResults(): Promise<void> {
    const { stdout } = await type(onNode('cat', results))
    if (stdout !== readFileSync(join(STAGE_DIRECTORY, results), 'utf8')) {
      throw new DemoFailure(`${results} is not the same in the container.`)
    }
  }
}

/** What a member has in ~/.ssh by habit; here it keeps the demo away from the real ~/.ssh, and from any agent. */
function clientSettings(identityFile: string, knownHosts: string): string {
  return `Host *
  IdentityFile ${identityFile}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile ${knownHosts}
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
  ControlMaster no
  ControlPath none

`
}
