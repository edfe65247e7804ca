import './snapshot.test.ts'
