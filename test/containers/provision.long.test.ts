import './provision.test.ts'
