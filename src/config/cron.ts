/** Is that minute one of the schedule's? */
export type Cron = (at: Date) => boolean

const FIELDS = [
  { name: 'minute', from: 0, to: 59 },
  { name: 'hour', from: 0, to: 23 },
  { name: 'day of the month', from: 1, to: 31 },
  { name: 'month', from: 1, to: 12 },
  { name: 'day of the week', from: 0, to: 7 }
] as const

/**
 * crontab(5): five fields of numbers, `*`, lists, ranges and steps, in local time. A day matches by its number or by its weekday
 * where both are given.
 * @throws RangeError saying which field is wrong
 */
export function parseCron(text: string): Cron {
  const words = text.trim().split(/\s+/)
  if (words.length !== FIELDS.length) throw new RangeError(`expected five fields such as 0 3 * * *`)
  const [minutes, hours, days, months, weekdays] = words.map((word, index) => parseField(word, index)) as [
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>,
    Set<number>
  ]
  const [anyDay, anyWeekday] = [words[2]?.startsWith('*'), words[4]?.startsWith('*')]
  return at => {
    const day = days.has(at.getDate())
    const weekday = weekdays.has(at.getDay()) || (at.getDay() === 0 && weekdays.has(7))
    const isDay = anyDay || anyWeekday ? day && weekday : day || weekday
    return minutes.has(at.getMinutes()) && hours.has(at.getHours()) && months.has(at.getMonth() + 1) && isDay
  }
}

function parseField(word: string, index: number): Set<number> {
  const { name, from, to } = FIELDS[index] as (typeof FIELDS)[number]
  const wrong = () => new RangeError(`${word} is no ${name}`)
  const matched = new Set<number>()
  for (const part of word.split(',')) {
    const [, star, first, last, step] = /^(?:(\*)|(\d{1,2})(?:-(\d{1,2}))?)(?:\/(\d{1,2}))?$/.exec(part) ?? []
    if (star === undefined && first === undefined) throw wrong()
    const low = star ? from : Number(first)
    const high = star ? to : Number(last ?? (step ? to : first))
    if (low < from || high > to || low > high || Number(step ?? 1) < 1) throw wrong()
    for (let value = low; value <= high; value += Number(step ?? 1)) matched.add(value)
  }
  return matched
}
