// Enrollment on Express and pg: one transaction for each request, with courses locked in the order of their ids.

import { randomUUID } from 'node:crypto'
import express from 'express'
import pg from 'pg'
import { z } from 'zod'
import * as sql from './statements.js'

// Ids and counters stay far below 2^53; by default pg returns them as text.
pg.types.setTypeParser(pg.types.builtins.INT8, Number)

const pool = new pg.Pool({
  connectionString: process.env.DATABASE_URL,
  max: Number(process.env.POOL_SIZE ?? 20),
  pipeline: true,
})
pool.on('error', (error) => console.error(error))

const Id = z.int().positive()
const Status = z.enum(['enrolled', 'waitlisted', 'completed', 'dropped', 'withdrawn'])
const EnrollmentRequest = z.strictObject({
  course_ids: z.array(Id).min(1).max(100),
  mode: z.enum(['atomic', 'partial']).default('atomic'),
  on_full: z.enum(['fail', 'waitlist']).default('fail'),
})
const StudentPath = z.object({ student_id: z.coerce.number().pipe(Id) })
const CoursePath = z.object({ course_id: z.coerce.number().pipe(Id) })
const StudentCoursePath = z.object({ ...StudentPath.shape, ...CoursePath.shape })
const Paging = z.object({
  limit: z.coerce.number().int().min(1).max(500).default(50),
  cursor: z.coerce.number().int().nonnegative().default(0),
})
const StudentCoursesQuery = z.object({ ...Paging.shape, status: Status.optional() })
const CourseStudentsQuery = z.object({ ...Paging.shape, status: Status.default('enrolled') })

class Problem extends Error {
  constructor(status, code, detail, errors = []) {
    super(detail)
    Object.assign(this, { status, code, errors })
  }
}

const noStudent = (id) => new Problem(404, 'student_not_found', `There is no student ${id}.`)
const noCourse = (id) => new Problem(404, 'course_not_found', `There is no course ${id}.`)
const requestIdOf = (req) => req.get('x-request-id') ?? randomUUID()

const courseInfo = ({ id, external_id, code, title, credits, term_id }) =>
  ({ id, external_id, code, title, credits, term_id })
const hasFreeSeat = ({ capacity, seats_taken }) => capacity === null || seats_taken < capacity

// Runs work in a transaction. BEGIN and the first statements are sent together, and so are the last one and COMMIT:
// if the last statement fails, PostgreSQL executes that COMMIT as a ROLLBACK.
async function transaction(first, work) {
  const client = await pool.connect()
  try {
    const [, ...loaded] = await Promise.all([client.query('BEGIN'), ...first.map((query) => client.query(query))])
    const { last, answer } = await work(loaded.map(({ rows }) => rows), client)
    await Promise.all([...(last ? [client.query(last)] : []), client.query('COMMIT')])
    return answer
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  } finally {
    client.release()
  }
}

const columns = (rows, names) => names.map((name) => rows.map((row) => row[name]))
const saveMoves = (requestId, moves, courses) =>
  sql.saveMoves(
    requestId,
    ...columns(moves, ['student_id', 'course_id', 'event', 'before', 'after']),
    ...columns(courses, ['id', 'seats_taken', 'waitlisted']),
  )

// Returns why a student is refused, or undefined if a seat or a waitlist place is available.
function refuse(courseId, course, before, onFull) {
  if (!course) return { code: 'unknown_course', detail: `There is no course ${courseId}.` }
  if (before === 'completed') {
    return { code: 'already_completed', detail: `The student has completed course ${courseId}.` }
  }
  if (hasFreeSeat(course)) return undefined
  const { capacity, seats_taken, waitlisted, waitlist_capacity } = course
  if (onFull === 'fail' || waitlist_capacity === 0) {
    const detail = `Course ${courseId} has ${seats_taken} of its ${capacity} seats taken.`
    return { code: 'course_full', capacity, seats_taken, detail }
  }
  if (waitlist_capacity !== null && waitlisted >= waitlist_capacity) {
    const detail = `Course ${courseId} is full, and so is its waitlist of ${waitlist_capacity} places.`
    return { code: 'waitlist_full', waitlist_capacity, detail }
  }
  return undefined
}

function page(items, limit, key) {
  return { items: items.slice(0, limit), next: items.length > limit ? String(items[limit - 1][key]) : null }
}

const app = express()
app.disable('x-powered-by')
app.disable('etag')
app.use(express.json())

app.post('/students/:student_id/enroll', async (req, res) => {
  const { student_id } = StudentPath.parse(req.params)
  const { course_ids, mode, on_full } = EnrollmentRequest.parse(req.body)
  const first = [sql.lockCourses(course_ids), sql.loadStatuses(student_id, course_ids)]
  const { results, created } = await transaction(first, ([locked, enrollments]) => {
    if (enrollments.length === 0) throw noStudent(student_id)
    const courses = new Map(locked.map((course) => [course.id, course]))
    const statuses = new Map(enrollments.map((row) => [row.course_id, row.status]))
    const results = []
    const errors = []
    const moves = []
    for (const course_id of new Set(course_ids)) {
      const course = courses.get(course_id)
      const before = statuses.get(course_id) ?? null
      if (before === 'enrolled' || before === 'waitlisted') {
        results.push({ course_id, outcome: 'unchanged', status: before, course: courseInfo(course) })
        continue
      }
      const refusal = refuse(course_id, course, before, on_full)
      if (refusal) {
        errors.push({ pointer: `#/course_ids/${course_ids.indexOf(course_id)}`, course_id, ...refusal })
        results.push({ course_id, outcome: 'refused', errors: [refusal] })
        continue
      }
      if (hasFreeSeat(course)) {
        course.seats_taken += 1
        results.push({ course_id, outcome: 'enrolled', course: courseInfo(course) })
      } else {
        course.waitlisted += 1
        results.push({ course_id, outcome: 'waitlisted', position: course.waitlisted, course: courseInfo(course) })
      }
      const { outcome } = results.at(-1)
      moves.push({ student_id, course_id, event: outcome, before, after: outcome })
    }
    if (errors.length > 0 && mode === 'atomic') {
      const codes = new Set(errors.map(({ code }) => code))
      const detail = ['Nothing was changed.', ...errors.map(({ detail }) => detail)].join(' ')
      if (codes.has('unknown_course')) throw new Problem(422, 'unknown_course', detail, errors)
      throw new Problem(409, codes.size === 1 ? errors[0].code : 'enrollment_refused', detail, errors)
    }
    const created = moves.length > 0
    const moved = moves.map(({ course_id }) => courses.get(course_id))
    const last = created ? saveMoves(requestIdOf(req), moves, moved) : undefined
    return { last, answer: { results, created } }
  })
  res.status(created ? 201 : 200).json({ student_id, results })
})

app.delete('/students/:student_id/courses/:course_id', async (req, res) => {
  const { student_id, course_id } = StudentCoursePath.parse(req.params)
  const first = [sql.lockCourses([course_id]), sql.loadStatuses(student_id, [course_id])]
  const dropped = await transaction(first, async ([[course], [mine]], client) => {
    if (!mine) throw noStudent(student_id)
    const { status: before, joined_at } = mine
    if (before === null) {
      throw new Problem(404, 'enrollment_not_found', `Student ${student_id} has never been enrolled in course ${course_id}.`)
    }
    if (before === 'completed') {
      throw new Problem(409, 'already_completed', `The student has completed course ${course_id}; it is not dropped.`)
    }
    const shown = (status, outcome) => ({
      course_id, status, position: null, joined_at, passed: null, grade: null, course: courseInfo(course), outcome,
    })
    if (before !== 'enrolled' && before !== 'waitlisted') return { answer: shown(before, 'unchanged') }
    const moves = [{ student_id, course_id, event: 'dropped', before, after: 'dropped' }]
    course[before === 'enrolled' ? 'seats_taken' : 'waitlisted'] -= 1
    if (before === 'enrolled' && course.waitlisted > 0 && hasFreeSeat(course)) {
      const { rows: [promoted] } = await client.query(sql.loadFirstWaitlisted(course_id))
      if (promoted) {
        moves.push({ ...promoted, course_id, event: 'promoted', before: 'waitlisted', after: 'enrolled' })
        course.waitlisted -= 1
        course.seats_taken += 1
      }
    }
    return { last: saveMoves(requestIdOf(req), moves, [course]), answer: shown('dropped', 'dropped') }
  })
  res.json(dropped)
})

app.get('/students/:student_id/courses', async (req, res) => {
  const { student_id } = StudentPath.parse(req.params)
  const { status, limit, cursor } = StudentCoursesQuery.parse(req.query)
  const statuses = status ? [status] : ['enrolled', 'waitlisted']
  const { rows } = await pool.query(sql.listStudentCourses(student_id, statuses, cursor, limit + 1))
  if (rows.length === 0 && (await pool.query(sql.getStudent(student_id))).rows.length === 0) throw noStudent(student_id)
  const items = rows.map(({ course_id, status, position, joined_at, passed, grade, ...course }) => ({
    course_id, status, position, joined_at, passed, grade, course: { id: course_id, ...course },
  }))
  res.json(page(items, limit, 'course_id'))
})

app.get('/courses/:course_id/students', async (req, res) => {
  const { course_id } = CoursePath.parse(req.params)
  const { status, limit, cursor } = CourseStudentsQuery.parse(req.query)
  const waiting = status === 'waitlisted'
  const { rows } = await pool.query(
    waiting
      ? sql.listWaitlist(course_id, cursor, limit + 1)
      : sql.listCourseStudents(course_id, status, cursor, limit + 1),
  )
  if (rows.length === 0 && (await pool.query(sql.getCourse(course_id))).rows.length === 0) throw noCourse(course_id)
  const items = rows.map(({ student_id, status, joined_at, ...student }, index) => ({
    student_id, status, position: waiting ? cursor + index + 1 : null, joined_at, student: { id: student_id, ...student },
  }))
  res.json(page(items, limit, waiting ? 'position' : 'student_id'))
})

app.get('/students/:student_id', async (req, res) => {
  const { student_id } = StudentPath.parse(req.params)
  const { rows: [student] } = await pool.query(sql.getStudent(student_id))
  if (!student) throw noStudent(student_id)
  res.json(student)
})

app.get('/courses/:course_id', async (req, res) => {
  const { course_id } = CoursePath.parse(req.params)
  const { rows: [course] } = await pool.query(sql.getCourse(course_id))
  if (!course) throw noCourse(course_id)
  res.json(course)
})

app.get('/courses', async (req, res) => {
  const { limit, cursor } = Paging.parse(req.query)
  const { rows } = await pool.query(sql.listCourses(cursor, limit + 1))
  res.json(page(rows, limit, 'id'))
})

app.get('/health/ready', async (_req, res) => {
  await pool.query('SELECT 1')
  res.json({ status: 'ready' })
})

// Express recognizes an error handler by its four parameters.
app.use((error, req, res, _next) => {
  let problem = error
  if (error instanceof z.ZodError) {
    const errors = error.issues.map(({ code, path, message }) => ({ code, pointer: `#/${path.join('/')}`, detail: message }))
    problem = new Problem(422, 'invalid', errors.map(({ detail }) => detail).join('; '), errors)
  } else if (!(error instanceof Problem)) {
    if (!error.expose) console.error(error)
    problem = error.expose
      ? new Problem(error.status, 'bad_request', error.message)
      : new Problem(500, 'internal_error', 'Something went wrong.')
  }
  res.status(problem.status).type('application/problem+json').send(
    JSON.stringify({
      type: `/problems/${problem.code}`,
      code: problem.code,
      title: problem.code.replaceAll('_', ' '),
      status: problem.status,
      detail: problem.message,
      instance: req.path,
      request_id: requestIdOf(req),
      errors: problem.errors,
    }),
  )
})

await pool.query(sql.PREPARE_SEQUENCE)
await pool.query(sql.ADVANCE_SEQUENCE)
const server = app.listen({ host: process.env.HOST ?? '127.0.0.1', port: Number(process.env.PORT ?? 8080), backlog: 4096 })
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => server.close(() => pool.end()))
}
