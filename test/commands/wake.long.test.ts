import './wake.test.ts'
