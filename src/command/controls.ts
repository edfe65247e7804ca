// oxlint-disable-next-line no-control-regex
const CONTROLS = /(\u001B\[[0-9;]*m)|[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u200E\u200F\u202A-\u202E\u2066-\u2069]/gu

/**
 * Text may come from members, containers, archives and servers: no control character of theirs reaches a terminal. Line ends and tabs
 * stay, and colours where they are wanted.
 */
export const withoutControls = (text: string, { colors }: { colors: boolean }): string =>
  text.replaceAll(CONTROLS, (_match, style: string | undefined) => (style !== undefined && colors ? style : ''))
