/** Lets actions of the same name run one after the other, in the order they came. */
export class Turns {
  readonly #last = new Map<string, Promise<void>>()

  take<T>(name: string, action: () => Promise<T>): Promise<T> {
    const result = (this.#last.get(name) ?? Promise.resolve()).then(action)
    const settled = result.then(
      () => {},
      () => {}
    )
    this.#last.set(name, settled)
    void settled.then(() => {
      if (this.#last.get(name) === settled) this.#last.delete(name)
    })
    return result
  }
}
