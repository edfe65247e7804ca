import './port.test.ts'
