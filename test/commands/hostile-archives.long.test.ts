import './hostile-archives.test.ts'
