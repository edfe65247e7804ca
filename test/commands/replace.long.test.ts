import './replace.test.ts'
