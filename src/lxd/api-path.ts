declare const encoded: unique symbol
/** A path below /1.0 whose variable parts are percent-encoded; only `apiPath` makes one. */
export type ApiPath = string & { readonly [encoded]: true }

/**
 * Template tag: apiPath`/1.0/instances/${name}/state`. Each value becomes exactly one path segment, whatever it holds.
 * @throws TypeError for an empty value, `.` or `..`, which no encoding can keep a server from resolving
 */
export function apiPath(literals: TemplateStringsArray, ...values: readonly string[]): ApiPath {
  const parts = values.map(value => {
    if (value === '' || value === '.' || value === '..') throw new TypeError(`not a name: '${value}'`)
    return encodeURIComponent(value)
  })
  return String.raw({ raw: literals }, ...parts) as ApiPath
}
