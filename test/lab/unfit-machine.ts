/** What the machine lacks for a lab, and what to do about it, in words for whoever wants one. */
export class UnfitMachine extends Error {}

export const ELSEWHERE = 'use a machine of its own: a virtual one will do, most containers will not'
