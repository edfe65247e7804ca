import './flood.test.ts'
