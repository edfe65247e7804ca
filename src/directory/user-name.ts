import { UserError } from '../errors.ts'

/** Login names with a meaning of their own, and the accounts every image brings (base-passwd, sshd, systemd, cloud images). */
const RESERVED = new Set(
  `register enroll berth help root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats
   nobody sshd messagebus syslog systemd-network systemd-resolve systemd-timesync systemd-coredump uuidd tcpdump landscape
   pollinate dnsmasq polkitd ntp sudo admin adm users shadow utmp video render kvm input lxd incus docker ubuntu debian
   staff operator nogroup disk tape cdrom floppy audio dip plugdev netdev tty kmem dialout fax voice src sasl crontab ssl-cert`.split(
    /\s+/
  )
)

/**
 * A user name is at once a Linux user, an LXD instance name and a word of a command line.
 * @throws UserError `bad-user-name`
 */
export function checkUserName(name: string): string {
  if (!/^[a-z][a-z0-9-]{0,30}$/.test(name) || name.endsWith('-')) {
    throw new UserError('bad-user-name', undefined, {
      hint: 'A user name is 1 to 31 lower-case letters, digits and dashes, starts with a letter and does not end with a dash.'
    })
  }
  if (RESERVED.has(name)) {
    throw new UserError('bad-user-name', `${name} is reserved: it means something else in berth or in the images.`, {
      hint: 'Choose another name, for instance one with the family name in it.'
    })
  }
  return name
}

const MAX_LENGTH = 31

/**
 * The user name for a name of the lab's directory that may be none (dots, capitals, digits first): `Jane.Doe` → `jane-doe`, and for
 * the second attempt `jane-doe-2`. Undefined when that one is reserved.
 */
export function userNameFor(login: string, attempt: number): string | undefined {
  const letters = login
    .normalize('NFKD')
    .replace(/@.*/, '')
    .toLowerCase()
    .replace(/\p{M}/gu, '')
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-+/g, '')
  const base = /^[a-z]/.test(letters) ? letters : `u${letters}`
  const suffix = attempt === 1 ? '' : `-${attempt}`
  const name = base.slice(0, MAX_LENGTH - suffix.length).replace(/-+$/, '') + suffix
  return RESERVED.has(name) ? undefined : name
}
