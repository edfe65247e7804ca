import './walls.test.ts'
