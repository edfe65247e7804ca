import type { AuthContext, PublicKeyAuthContext } from 'ssh2'
import type { Principal } from '../command/command.ts'
import type { NodeConfig } from '../config.ts'
import type { Log } from '../log.ts'
import type { Attempt, Verdict } from './authenticate.ts'
import type { Gate } from './gate.ts'
import type { Wire } from './wire-protocol.ts'

interface Parts {
  readonly wire: Wire
  readonly gate: Gate
  readonly node: NodeConfig
  readonly address: string
  readonly log: Log
  readonly judge: (attempt: Attempt) => Verdict
}

const MAX_FAILURES = 6
/** Questions about keys are cheap and an agent may hold many; still no client asks for ever. */
const MAX_QUESTIONS = 30
/**
 * A client tries its keys first and then what else is offered. keyboard-interactive is offered for that moment alone: it never
 * succeeds, but only then is it known that no key will do, and the banner can say so.
 */
const OFFERED: ('publickey' | 'keyboard-interactive')[] = ['publickey', 'keyboard-interactive']

/** The login of one connection: answers each request of RFC 4252 and tells a person who fails why. */
export class LoginDialogue {
  readonly #parts: Parts
  #failures = 0
  #questions = 0
  #faults = new Set<string>()

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** The principal, once a signature has proven it; the caller then accepts the request. Everything else is answered here. */
  answer(request: AuthContext): Principal | undefined {
    const { wire, gate, address, log } = this.#parts
    const bannedUntilMs = gate.bannedUntilMs(address, Date.now())
    if (bannedUntilMs !== undefined) {
      const minutes = Math.ceil((bannedUntilMs - Date.now()) / 60_000)
      return this.#end(`Too many failed logins from ${address}. Try again in ${minutes} min.`)
    }
    const isSigned = request.method === 'publickey' && request.signature !== undefined
    if (!isSigned && ++this.#questions > MAX_QUESTIONS)
      return this.#end('Too many keys were offered. Name the right one: ssh -i FILE -o IdentitiesOnly=yes ...')
    switch (request.method) {
      case 'publickey':
        return this.#answerKey(request)
      case 'none':
        break
      case 'keyboard-interactive':
        wire.sendBanner(this.#explain(request.username))
        log.info({ login: shorten(request.username) }, 'login refused')
        request.reject(['publickey'])
        return undefined
      case 'password':
      case 'hostbased':
        this.#countFailure(request)
    }
    if (wire.alive) request.reject(OFFERED)
    return undefined
  }

  #answerKey(request: PublicKeyAuthContext): Principal | undefined {
    const { judge, address, log, wire } = this.#parts
    const { key, hashAlgo, signature, blob, username } = request
    // ssh2 names RSA requests `ssh-rsa` and keeps the hash apart; without one it is SHA-1.
    const algorithm = hashAlgo === undefined ? key.algo : `rsa-sha2-${hashAlgo.slice('sha'.length)}`
    const proof = signature && blob && { signature, data: blob }
    let verdict: Verdict
    try {
      verdict = judge({ login: username, address, algorithm, blob: key.data, proof })
    } catch (error) {
      log.error({ err: error }, 'login could not be checked')
      return this.#end('berth cannot check logins at the moment. Please tell your admin.')
    }
    if (verdict.verdict === 'would-do') {
      // asyncssh wants the very algorithm back that it asked about.
      key.algo = algorithm
      request.accept()
      return undefined
    }
    if (verdict.verdict === 'accepted') return verdict.principal
    if (verdict.verdict === 'disabled') {
      log.info({ login: shorten(username) }, 'login refused: account disabled')
      return this.#end('Your account is disabled. Ask your admin.')
    }
    if (verdict.fault !== undefined) this.#faults.add(`${key.algo}: ${verdict.fault}`)
    if (proof) this.#countFailure(request)
    if (wire.alive) request.reject(OFFERED)
    return undefined
  }

  #countFailure(request: AuthContext): void {
    const { gate, address, log } = this.#parts
    gate.failed(address, Date.now())
    log.info({ login: shorten(request.username), method: request.method }, 'login failed')
    if (++this.#failures >= MAX_FAILURES) this.#end('Too many failed logins on this connection.')
  }

  /** The request stays unanswered, so that ssh2 looks at no further one, not even in the same TCP segment. */
  #end(text: string): undefined {
    const { wire } = this.#parts
    wire.sendBanner(`berth: ${text}`)
    wire.disconnect(text)
  }

  /** The same words whether the name or the key is unknown: a stranger learns neither. */
  #explain(login: string): string {
    const { node } = this.#parts
    const address = `-p ${node.managePort} ${clean(login)}@${node.manageAddress}`
    const lines = [`berth: ${this.#whatIsMissing(login)}`]
    if (login === 'enroll') lines.push('  Make one with:     ssh-keygen -t ed25519')
    lines.push(`  With another key:  ssh -i ~/.ssh/FILE -o IdentitiesOnly=yes ${address}`)
    if (login !== 'enroll') {
      if (login !== 'register') lines.push('  With another name: your user name in the lab, in front of the @')
      lines.push('  New here, no key:  ask your admin for an invite; the line to type comes with it')
    }
    for (const fault of this.#faults) lines.push(`  A key was passed over: ${clean(fault)}`)
    return lines.join('\n')
  }

  #whatIsMissing(login: string): string {
    if (login === 'enroll') return 'your ssh offered no key that could be enrolled.'
    if (login === 'register') return 'your ssh offered no enrolled key.'
    return `your ssh offered no key that is enrolled for ${clean(login)}.`
  }
}

const shorten = (login: string): string => login.slice(0, 64)

const clean = (text: string): string => text.replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, '?').slice(0, 200)
