import { readFileSync } from 'node:fs'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import ssh2 from 'ssh2'
import { closing, makeKey, startEndpoint, type Endpoint } from './endpoint.ts'

/** Everything but the certificates and hardware keys. */
const KEY_TYPES = {
  alice: ['-t', 'ed25519'],
  ecdsa256: ['-t', 'ecdsa', '-b', '256'],
  ecdsa384: ['-t', 'ecdsa', '-b', '384'],
  ecdsa521: ['-t', 'ecdsa', '-b', '521'],
  rsa2048: ['-t', 'rsa', '-b', '2048'],
  rsa3072: ['-t', 'rsa', '-b', '3072']
}
let endpoint: Endpoint

beforeAll(async () => {
  endpoint = await startEndpoint({
    users: { alice: Object.keys(KEY_TYPES), bob: ['bob'], carol: ['carol'] },
    keyTypes: { ...KEY_TYPES, rsa1024: ['-t', 'rsa', '-b', '1024'] }
  })
  await endpoint.ask({ do: 'disable', name: 'carol' })
})
afterAll(() => endpoint[Symbol.asyncDispose]())

describe('who gets in', () => {
  test.each(Object.keys(KEY_TYPES))('a member with an %s key', async key => {
    expect((await endpoint.ssh([], { key })).stdout).toContain('hello alice as member')
  })

  test.each(['rsa-sha2-256', 'rsa-sha2-512'])('RSA with %s', async algorithm => {
    const { stdout } = await endpoint.ssh([], {
      key: 'rsa2048',
      options: ['-o', `PubkeyAcceptedAlgorithms=${algorithm}`]
    })
    expect(stdout).toContain('hello alice')
  })

  test('register with any enrolled key, enroll with any key', async () => {
    expect((await endpoint.ssh([], { login: 'register', key: 'bob' })).stdout).toContain('hello bob as register')
    expect((await endpoint.ssh([], { login: 'enroll', key: 'bob' })).stdout).toContain('hello bob as enroll')
    expect((await endpoint.ssh([], { login: 'enroll', key: 'stranger' })).stdout).toContain('hello nobody as enroll')
  })

  test('an agent may offer many keys, unknown ones first', async () => {
    const socket = endpoint.keyFile('agent')
    const agent = endpoint.start('ssh-agent', ['-D', '-a', socket])
    const environment = { SSH_AUTH_SOCK: socket }
    await sleep(200)
    for (let index = 0; index < 12; index++) makeKey(endpoint.directory, `other${index}`)
    const names = [...Array.from({ length: 12 }, (_, index) => `other${index}`), 'alice']
    await endpoint.run('ssh-add', ['-q', ...names.map(name => endpoint.keyFile(name))], { environment })
    for (const [login, hello] of [
      ['alice', 'hello alice as member'],
      ['register', 'hello alice as register']
    ] as const) {
      const { stdout } = await endpoint.ssh([], {
        login,
        key: '',
        environment,
        options: ['-o', 'IdentityAgent=SSH_AUTH_SOCK']
      })
      expect(stdout).toContain(hello)
    }
    agent.child.kill()
  })
})

describe('who does not, and what they are told', () => {
  const cases = {
    'unknown key': ['alice', 'stranger'],
    "somebody else's key": ['alice', 'bob'],
    'unknown name': ['nobody', 'alice']
  }
  test.each(Object.entries(cases))('%s: the same words for all', async (_, [login = '', key = '']) => {
    const { stdout, stderr, exitCode } = await endpoint.ssh(['start'], { login, key, options: ['-o', 'LogLevel=INFO'] })
    expect([stdout, exitCode]).toEqual(['', 255])
    expect(stderr.replaceAll('\r', '').replaceAll(login, 'NAME').split('\n')).toEqual([
      'berth: your ssh offered no key that is enrolled for NAME.',
      `  With another key:  ssh -i ~/.ssh/FILE -o IdentitiesOnly=yes -p 0 NAME@manage.example`,
      '  With another name: your user name in the lab, in front of the @',
      '  New here, no key:  ask your admin for an invite; the line to type comes with it',
      'NAME@127.0.0.1: Permission denied (publickey).',
      ''
    ])
  })

  test('the banner is not shown when a later key does', async () => {
    const options = ['-o', 'LogLevel=INFO', '-i', endpoint.keyFile('stranger')]
    const { stdout, stderr } = await endpoint.ssh([], { options })
    expect(stdout).toContain('hello alice')
    expect(stderr).not.toContain('berth:')
  })

  test('no key at all', async () => {
    const options = ['-o', 'LogLevel=INFO', '-o', 'PubkeyAuthentication=no']
    const { stderr } = await endpoint.ssh([], { login: 'enroll', key: '', options })
    expect(stderr).toContain('berth: your ssh offered no key that could be enrolled.')
    expect(stderr).toContain('ssh-keygen -t ed25519')
  })

  test('a weak key is refused by name, also for enroll', async () => {
    const { stderr, exitCode } = await endpoint.ssh([], {
      login: 'enroll',
      key: 'rsa1024',
      options: ['-o', 'LogLevel=INFO', '-o', 'RequiredRSASize=1024']
    })
    expect(stderr).toContain('A key was passed over: ssh-rsa: It is an RSA key of 1024 bits; 2048 is the least.')
    expect(exitCode).toBe(255)
  })

  test('RSA with SHA-1', async () => {
    const { stderr, exitCode } = await endpoint.ssh([], {
      key: 'rsa2048',
      options: ['-v', '-o', 'LogLevel=DEBUG1', '-o', 'PubkeyAcceptedAlgorithms=ssh-rsa']
    })
    expect(stderr).toContain('no mutual signature algorithm')
    expect(exitCode).toBe(255)
    const { banner, outcome } = await signLogin(endpoint, 'rsa2048', 'ssh-rsa', 'sha1')
    expect(outcome).toBe('refused')
    expect(banner).toBe('')
    expect((await signLogin(endpoint, 'rsa2048', 'ssh-rsa', undefined, null)).outcome).toBe('refused')
    expect((await signLogin(endpoint, 'rsa2048', 'rsa-sha2-256', 'sha256')).outcome).toBe('accepted')
  })

  test('a disabled member is told so after proving the key, and not before', async () => {
    const proven = await endpoint.ssh([], { login: 'carol', key: 'carol', options: ['-o', 'LogLevel=INFO'] })
    expect(proven.stderr).toContain('Your account is disabled. Ask your admin.')
    const other = await endpoint.ssh([], { login: 'carol', key: 'stranger', options: ['-o', 'LogLevel=INFO'] })
    expect(other.stderr).not.toContain('disabled')
    expect([proven.exitCode, other.exitCode]).toEqual([255, 255])
    const role = await endpoint.ssh([], { login: 'register', key: 'carol', options: ['-o', 'LogLevel=INFO'] })
    expect(role.stderr).toContain('Your account is disabled.')
  })

  test('passwords and keyboard-interactive', async () => {
    for (const method of ['password', 'keyboard-interactive']) {
      const client = new ssh2.Client()
      const failure = once(client, 'error').then(([error]) => (error as Error).message)
      const settings = { host: '127.0.0.1', port: endpoint.port, username: 'alice' }
      client.on('keyboard-interactive', (_name, _instructions, _language, _prompts, answer) => answer(['secret']))
      client.connect({ ...settings, password: 'secret', tryKeyboard: true, authHandler: [method as 'password'] })
      expect(await failure, method).toContain('All configured authentication methods failed')
    }
  })

  test('odd login names', async () => {
    for (const login of [
      "'; DROP TABLE users",
      '../../etc',
      'alice\u0000',
      'a'.repeat(5000),
      '\u001B[2Jalice',
      'álice',
      ' '
    ]) {
      const client = new ssh2.Client()
      const failure = once(client, 'error').then(([error]) => (error as Error).message)
      const banner: string[] = []
      client.on('banner', message => banner.push(message))
      client.connect({
        host: '127.0.0.1',
        port: endpoint.port,
        username: login,
        privateKey: endpoint.privateKey('alice')
      })
      expect(await failure, login).toContain('authentication')
      // oxlint-disable-next-line no-control-regex
      expect(banner.join('')).not.toMatch(/[\u0000-\u0009\u000B-\u001F]/)
    }
    await endpoint.stillServes()
  })
})

test('a key offered without a signature opens nothing, nor does a signature of something else', async () => {
  expect((await signLogin(endpoint, 'alice', 'ssh-ed25519', undefined, null)).outcome).toBe('asked to sign ssh-ed25519')
  expect((await signLogin(endpoint, 'alice', 'ssh-ed25519', undefined, data => data)).outcome).toBe('accepted')
  const spoiled = (data: Buffer) => Buffer.concat([data.subarray(0, -1), Buffer.of(0)])
  expect((await signLogin(endpoint, 'alice', 'ssh-ed25519', undefined, spoiled)).outcome).toBe('refused')
})

test('questions about keys are not logged above debug; logins and failures are', async () => {
  await using own = await startEndpoint()
  await own.ssh([], { key: 'stranger' })
  await own.ssh([])
  const lines = () =>
    own.log
      .join('')
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as Record<string, string>)
  const told = () => lines().filter(({ level }) => level === 'info')
  // The refusal is written when its connection has closed.
  await expect
    .poll(() => told().map(({ msg, login, user }) => [msg, login, user]))
    .toEqual([
      ['login refused', 'alice', undefined],
      ['logged in', 'alice', 'alice']
    ])
  const fingerprint = lines().find(({ msg }) => msg === 'logged in')?.['fingerprint']
  const listed = await own.run('ssh-keygen', ['-l', '-f', own.keyFile('alice.pub')])
  expect(listed.stdout).toContain(fingerprint)
  expect(own.log.join('')).not.toContain(readFileSync(own.keyFile('alice.pub'), 'utf8').split(' ')[1])
})

test('a question about an RSA key is answered with the very algorithm it asked about', async () => {
  for (const algorithm of ['rsa-sha2-256', 'rsa-sha2-512'])
    expect(await signLogin(endpoint, 'rsa2048', algorithm, undefined, null)).toEqual({
      outcome: `asked to sign ${algorithm}`,
      banner: ''
    })
})

describe('at the gate', () => {
  test('a connection that does not log in is cut after the grace time, however it dawdles', async () => {
    await using own = await startEndpoint({ limits: { graceMs: 700 } })
    const silent = await own.connect()
    const slow = await own.connect()
    const started = Date.now()
    const dribble = setInterval(() => slow.write('S'), 50)
    const client = new ssh2.Client()
    client.on('error', () => {})
    // Greeted, keys exchanged, and then nothing.
    client.connect({ host: '127.0.0.1', port: own.port, username: 'alice', authHandler: () => {} })
    await Promise.all([text(silent), text(slow).catch(() => ''), closing(client)])
    clearInterval(dribble)
    expect(Date.now() - started).toBeGreaterThan(600)
    expect(Date.now() - started).toBeLessThan(3000)
    await own.stillServes()
  })

  test('no endpoint holds more connections than it may', async () => {
    await using own = await startEndpoint({ limits: { connections: 3 } })
    const sockets = await Promise.all(Array.from({ length: 3 }, () => own.connect()))
    await Promise.all(sockets.map(socket => once(socket, 'data')))
    expect((await own.ssh([])).exitCode).toBe(255)
    for (const socket of sockets) socket.destroy()
    await sleep(200)
    expect((await own.ssh([])).exitCode).toBe(0)
  })

  test('the grace time ends with the login', async () => {
    await using own = await startEndpoint({ limits: { graceMs: 700 } })
    expect((await own.ssh(['wait', '1500'])).stdout).toBe('waited\n')
  })

  test("a key that is nobody's keeps no place, earns no trust, and gets one command a connection", async () => {
    await using own = await startEndpoint({ limits: { graceMs: 2500 }, listen: '0.0.0.0' })
    const enroll = { username: 'enroll', privateKey: own.privateKey('stranger') }
    const client = await own.rawClient(enroll)
    await closing(client)
    const second = await own.rawClient(enroll)
    const closed = closing(second)
    second.exec('wait 100', () => second.exec('wait 100', () => {}))
    await closed
    const stranger = (words: string[]) =>
      own.ssh(words, { login: 'enroll', key: 'stranger', options: ['-b', '127.0.0.2', '-o', 'LogLevel=INFO'] })
    expect((await stranger(['wait', '3000'])).exitCode).toBe(255)
    for (let index = 0; index < 10; index++) expect((await stranger(['exit', '77'])).exitCode).toBe(77)
    expect((await stranger([])).stderr).toContain('Too many failed logins from 127.0.0.2.')
    await own.stillServes()
  })

  test('one member does not take every place', async () => {
    await using own = await startEndpoint({
      users: { alice: ['alice'], bob: ['bob'] },
      limits: { connectionsPerUser: 2 }
    })
    const clients = [await own.rawClient(), await own.rawClient()]
    const third = await own.ssh([], { options: ['-o', 'LogLevel=INFO'] })
    expect(third.stderr).toContain('you have 2 connections open')
    expect((await own.ssh([], { login: 'bob', key: 'bob' })).exitCode).toBe(0)
    for (const client of clients) client.end()
    await sleep(200)
    await own.stillServes()
  })

  test('six failures end a connection; thirty questions do too', async () => {
    const { tries, message } = await tryPasswords(endpoint, 100)
    expect(tries).toBe(6)
    expect(message).toContain('Too many failed logins on this connection.')
    for (let index = 0; index < 40; index++) makeKey(endpoint.directory, `many${index}`)
    const options = Array.from({ length: 40 }, (_, index) => ['-i', endpoint.keyFile(`many${index}`)]).flat()
    const { stderr } = await endpoint.ssh([], {
      key: '',
      options: [...options, '-o', 'IdentitiesOnly=yes', '-o', 'LogLevel=INFO']
    })
    expect(stderr).toContain('Too many keys were offered. Name the right one: ssh -i FILE')
  })

  test('ten failures ban an address, which is told so; questions do not; who logged in is trusted', async () => {
    await using own = await startEndpoint({ limits: { failures: 10 } })
    for (let index = 0; index < 12; index++) await own.ssh([], { key: 'stranger' })
    expect((await own.ssh([], { host: '127.0.0.1' })).exitCode).toBe(0)
    // This address has logged in: its failures are forgiven.
    for (let index = 0; index < 3; index++) await tryPasswords(own, 6)
    expect((await own.ssh([])).exitCode).toBe(0)
  })

  test('a banned address', async () => {
    await using own = await startEndpoint({ listen: '0.0.0.0' })
    for (let index = 0; index < 2; index++) await tryPasswords(own, 5, '127.0.0.2')
    const bound = (address: string) => own.ssh([], { options: ['-b', address, '-o', 'LogLevel=INFO'] })
    const banned = await bound('127.0.0.2')
    expect(banned.stderr).toContain('Too many failed logins from 127.0.0.2. Try again in 10 min.')
    expect([banned.stdout, banned.exitCode]).toEqual(['', 255])
    expect((await bound('127.0.0.3')).exitCode).toBe(0)
  })

  test('unauthenticated connections of one address are dropped at random from ten and all from sixty on', async () => {
    await using own = await startEndpoint({ listen: '0.0.0.0' })
    const sockets = await Promise.all(Array.from({ length: 200 }, () => own.connect()))
    const greetings = await Promise.all(sockets.map(async socket => String((await once(socket, 'data'))[0])))
    const served = greetings.filter(greeting => greeting.startsWith('SSH-2.0-berth'))
    expect(served.length).toBeGreaterThanOrEqual(10)
    expect(served.length).toBeLessThanOrEqual(60)
    expect(greetings.filter(greeting => greeting === 'Exceeded MaxStartups\r\n')).toHaveLength(200 - served.length)
    expect((await own.ssh([], { options: ['-b', '127.0.0.9'] })).exitCode).toBe(0)
    for (const socket of sockets) socket.destroy()
    await sleep(200)
    await own.stillServes()
  })
})

interface ClientProtocol {
  authPK(
    user: string,
    key: unknown,
    algorithm: string,
    sign?: (data: Buffer, done: (signature: Buffer) => void) => void
  ): void
  session(channel: number, window: number, packet: number): void
  readonly _handlers: Record<string, (...values: unknown[]) => void>
}

/**
 * One publickey request made by hand, and then a session whatever the answer. `change` spoils what is signed; without it
 * there is no signature.
 */
function signLogin(
  own: Endpoint,
  keyName: string,
  algorithm: string,
  hash?: string,
  change: ((data: Buffer) => Buffer) | null = data => data
): Promise<{ outcome: string; banner: string }> {
  const key = ssh2.utils.parseKey(own.privateKey(keyName))
  if (key instanceof Error) throw key
  return new Promise(resolve => {
    const client = new ssh2.Client()
    let banner = ''
    let proven = 'nothing'
    const end = (outcome: string) => {
      client.end()
      resolve({ outcome, banner })
    }
    client.on('error', () => end('hung up'))
    client.on('banner', message => (banner += message))
    const protocol = () => (client as unknown as { _protocol: ClientProtocol })._protocol
    client.connect({
      host: '127.0.0.1',
      port: own.port,
      username: 'alice',
      authHandler: () => {
        const handlers = protocol()._handlers
        const next = (answer: string) => () => {
          proven = answer
          protocol().session(0, 1000, 1000)
        }
        handlers['USERAUTH_SUCCESS'] = next('accepted')
        handlers['USERAUTH_FAILURE'] = next('refused')
        handlers['USERAUTH_PK_OK'] = (_protocol, name) => next(`asked to sign ${String(name)}`)()
        handlers['CHANNEL_OPEN_FAILURE'] = () => end(proven)
        handlers['CHANNEL_OPEN_CONFIRMATION'] = () => end(proven === 'accepted' ? proven : `open although ${proven}`)
        protocol().authPK(
          'alice',
          key,
          algorithm,
          change === null ? undefined : (data, done) => done(key.sign(change(data), hash))
        )
      }
    })
  })
}

async function tryPasswords(own: Endpoint, most: number, localAddress = '127.0.0.1') {
  const client = new ssh2.Client()
  let tries = 0
  let message = ''
  client.on('banner', text => (message += text))
  client.on('error', () => {})
  const closed = closing(client)
  client.connect({
    host: '127.0.0.1',
    port: own.port,
    username: 'alice',
    localAddress,
    authHandler: (_left, _partial, next) => {
      if (tries === most) return void client.end()
      tries++
      next({ type: 'password', username: 'alice', password: 'secret' })
    }
  })
  await closed
  return { tries, message }
}
