import { execFileSync } from 'node:child_process'
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startEndpoint, type Endpoint, type Outcome } from './endpoint.ts'
import { SoftwareToken, startTokenAgent } from './software-token.ts'

let endpoint: Endpoint
const tokens = { ed25519: new SoftwareToken('ed25519'), ecdsa: new SoftwareToken('ecdsa') }
/** A certificate of a token needs no enrolled key. */
const certified = new SoftwareToken('ed25519')

beforeAll(async () => {
  endpoint = await startEndpoint({
    users: { alice: ['alice'], bob: ['bob'], carol: ['carol'] },
    publicKeys: { alice: Object.values(tokens).map(token => token.publicKey) },
    keyTypes: {
      rsa: ['-t', 'rsa', '-b', '2048'],
      ecdsa: ['-t', 'ecdsa'],
      rsaAuthority: ['-t', 'rsa', '-b', '2048'],
      otherAuthority: ['-t', 'ed25519'],
      fresh: ['-t', 'ed25519']
    },
    authorities: ['authority', 'rsaAuthority']
  })
  await endpoint.ask({ do: 'disable', name: 'carol' })
})
afterAll(() => endpoint[Symbol.asyncDispose]())

let agents = 0

async function sshWithToken(token: SoftwareToken, blob = token.blob, login = 'alice'): Promise<Outcome> {
  const path = endpoint.keyFile(`agent${agents++}`)
  await using _agent = await startTokenAgent(path, new Map([[blob, token]]))
  return await endpoint.ssh([], { login, key: '', options: ['-o', `IdentityAgent=${path}`, '-o', 'LogLevel=INFO'] })
}

describe.each(Object.entries(tokens))('a hardware key, %s', (_, token) => {
  test('gets in when it was touched', async () => {
    for (const flags of [1, 5]) {
      token.flags = flags
      expect((await sshWithToken(token)).stdout).toContain('hello alice as member')
    }
    expect((await sshWithToken(token, undefined, 'register')).stdout).toContain('hello alice as register')
    token.flags = 1
  })

  test('does not get in without a touch, or with a spoiled signature', async () => {
    token.flags = 0
    expect((await sshWithToken(token)).exitCode).toBe(255)
    token.flags = 1
    for (const spoil of [
      (signature: Buffer) => Buffer.from(signature.map((byte, index) => (index === 10 ? byte ^ 1 : byte))),
      (signature: Buffer) => signature.subarray(0, -1),
      () => Buffer.alloc(0)
    ]) {
      token.spoil = spoil
      expect((await sshWithToken(token)).exitCode).toBe(255)
    }
    token.spoil = signature => signature
    await endpoint.stillServes()
  })
})

/** Certifies `key`.pub into certified-cert.pub next to a copy of the key, and logs in with that. */
async function sshWithCertificate(
  words: string[],
  { key = 'fresh', authority = 'authority', login = 'alice', options = [] as string[] } = {}
): Promise<Outcome> {
  const file = endpoint.keyFile('certified')
  for (const suffix of ['', '.pub', '-cert.pub']) rmSync(file + suffix, { force: true })
  copyFileSync(endpoint.keyFile(key), file)
  copyFileSync(endpoint.keyFile(`${key}.pub`), `${file}.pub`)
  execFileSync('ssh-keygen', ['-q', '-s', endpoint.keyFile(authority), '-I', 'test', ...words, `${file}.pub`])
  const options_ = ['-o', `CertificateFile=${file}-cert.pub`, '-o', 'LogLevel=INFO', ...options]
  return await endpoint.ssh(['start'], { login, key: 'certified', options: options_ })
}

describe('a certificate', () => {
  test.each([
    ['of an Ed25519 key', ['-n', 'alice'], {}],
    ['of an RSA key', ['-n', 'alice'], { key: 'rsa' }],
    [
      'of an RSA key with SHA-256',
      ['-n', 'alice'],
      { key: 'rsa', options: ['-o', 'PubkeyAcceptedAlgorithms=rsa-sha2-256-cert-v01@openssh.com,rsa-sha2-256'] }
    ],
    ['of an ECDSA key', ['-n', 'alice'], { key: 'ecdsa' }],
    ['signed with RSA and SHA-512', ['-n', 'alice', '-t', 'rsa-sha2-512'], { authority: 'rsaAuthority' }],
    ['for several names', ['-n', 'zoe,alice'], {}],
    ['valid now', ['-n', 'alice', '-V', '-1m:+1m'], {}],
    ['for this address', ['-n', 'alice', '-O', 'source-address=10.0.0.0/8,127.0.0.0/8'], {}]
  ] as const)('%s is taken', async (_, words, how) => {
    const { stdout, stderr } = await sshWithCertificate([...words], {
      ...how,
      options: [...('options' in how ? how.options : [])]
    })
    expect(stderr).toBe('')
    expect(stdout).toContain('hello alice as member')
  })

  test.each([
    ['for another name', ['-n', 'bob'], {}, 'it is not for the name "alice"'],
    ['for nobody', [], {}, 'it is not for the name "alice"'],
    [
      'of another authority',
      ['-n', 'alice'],
      { authority: 'otherAuthority' },
      'it is signed by an authority unknown here'
    ],
    [
      'signed with SHA-1',
      ['-n', 'alice', '-t', 'ssh-rsa'],
      { authority: 'rsaAuthority' },
      'the signature of its authority is wrong'
    ],
    ['that has expired', ['-n', 'alice', '-V', '-2h:-1h'], {}, 'it has expired'],
    ['not valid yet', ['-n', 'alice', '-V', '+1h:+2h'], {}, 'it is not valid yet'],
    [
      'with a forced command',
      ['-n', 'alice', '-O', 'force-command=id'],
      {},
      'its critical option "force-command" is not supported here'
    ],
    [
      'with an unknown option',
      ['-n', 'alice', '-O', 'critical:wisdom@example=1'],
      {},
      'its critical option "wisdom@example" is not supported here'
    ],
    [
      'for another address',
      ['-n', 'alice', '-O', 'source-address=10.0.0.0/8'],
      {},
      'it may not be used from your address'
    ],
    [
      'that demands a PIN from a key without',
      ['-n', 'alice', '-O', 'verify-required'],
      {},
      'its certificate demands a PIN'
    ]
  ] as const)('%s is refused', async (_, words, how, fault) => {
    const { stdout, stderr, exitCode } = await sshWithCertificate([...words], { ...how })
    expect([stdout, exitCode]).toEqual(['', 255])
    expect(stderr).toContain(fault)
  })

  test('gives neither another name, nor register, nor a disabled account', async () => {
    expect((await sshWithCertificate(['-n', 'ghost'], { login: 'ghost' })).exitCode).toBe(255)
    expect((await sshWithCertificate(['-n', 'register'], { login: 'register' })).exitCode).toBe(255)
    const disabled = await sshWithCertificate(['-n', 'carol'], { login: 'carol' })
    expect(disabled.stderr).toContain('Your account is disabled.')
  })

  test('with a spoiled signature of its authority', async () => {
    const { exitCode } = await sshWithCertificate(['-n', 'alice'])
    expect(exitCode).toBe(0)
    const file = endpoint.keyFile('certified-cert.pub')
    const [type, base64 = ''] = readFileSync(file, 'utf8').split(' ')
    const blob = Buffer.from(base64, 'base64')
    blob.writeUInt8(blob.readUInt8(blob.length - 1) ^ 1, blob.length - 1)
    writeFileSync(file, `${type} ${blob.toString('base64')}\n`)
    // OpenSSH's client checks this itself; an agent does not.
    const token = certified
    const spoiled = await sshWithToken(token, blob)
    expect(spoiled.exitCode).toBe(255)
  })

  test('of a hardware key; PIN where the certificate demands it', async () => {
    const file = endpoint.keyFile('token')
    writeFileSync(`${file}.pub`, `${certified.publicKey}\n`)
    const certify = (...words: string[]) => {
      execFileSync('ssh-keygen', [
        '-q',
        '-s',
        endpoint.keyFile('authority'),
        '-I',
        't',
        '-n',
        'alice',
        ...words,
        `${file}.pub`
      ])
      return Buffer.from(readFileSync(`${file}-cert.pub`, 'utf8').split(' ')[1] ?? '', 'base64')
    }
    certified.flags = 1
    expect((await sshWithToken(certified, certify())).stdout).toContain('hello alice')
    const demanding = certify('-O', 'verify-required')
    expect((await sshWithToken(certified, demanding)).stderr).toContain('its certificate demands a PIN')
    certified.flags = 5
    expect((await sshWithToken(certified, demanding)).stdout).toContain('hello alice')
    // OpenSSH's client would not offer it.
    const hostCertificate = certify('-h')
    expect((await sshWithToken(certified, hostCertificate)).stderr).toContain('it is a host certificate')
    certified.flags = 4
    expect((await sshWithToken(certified, demanding)).exitCode).toBe(255)
  })

  test('is refused where no authority is configured, and the plain key still does', async () => {
    await using own = await startEndpoint({ authorities: [], keyTypes: { authority: ['-t', 'ed25519'] } })
    execFileSync('ssh-keygen', [
      '-q',
      '-s',
      own.keyFile('authority'),
      '-I',
      't',
      '-n',
      'alice',
      own.keyFile('stranger.pub')
    ])
    const { stderr, exitCode } = await own.ssh([], { key: 'stranger', options: ['-o', 'LogLevel=INFO'] })
    expect(stderr).toContain('it is a certificate, and none are taken here')
    expect(exitCode).toBe(255)
    execFileSync('ssh-keygen', [
      '-q',
      '-s',
      own.keyFile('authority'),
      '-I',
      't',
      '-n',
      'alice',
      own.keyFile('alice.pub')
    ])
    expect((await own.ssh([])).exitCode).toBe(0)
  })
})
