import './first-day.test.ts'
