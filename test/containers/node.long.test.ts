import './node.test.ts'
