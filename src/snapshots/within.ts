/** Resolves as `work` does, or throws `fault` after `ms`; what takes longer is left to its fate. */
export function within<T>(work: Promise<T>, ms: number, fault: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(fault()), ms)
    work.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}
