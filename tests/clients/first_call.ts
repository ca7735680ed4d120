// The first calls of the README, with a client that openapi-typescript generates from the API document.

import createClient from 'openapi-fetch'
import type { components, paths } from './schema.js'

// The second type leaves out the stream of /events, which is text/event-stream.
const client = createClient<paths, `application/${string}`>({ baseUrl: process.argv[2] ?? 'http://127.0.0.1:8080' })

const added = await client.POST('/students', {
  body: { given_name: 'Ada', family_name: 'Lovelace', email: 'ada@campus.example', external_id: 'S-1001' },
})
if (added.error) throw new Error(`${added.error.code}: ${added.error.detail}`)
const student: components['schemas']['Student'] = added.data

const course = await client.POST('/courses', { body: { code: 'MATH101', title: 'Calculus I', credits: 4, capacity: 1 } })
if (course.error) throw new Error(course.error.detail)

const enrolled = await client.POST('/students/{student_id}/enroll', {
  params: { path: { student_id: student.id } },
  body: { course_ids: [course.data.id] },
})
if (enrolled.error) throw new Error(enrolled.error.detail)
for (const result of enrolled.data.results) {
  if (result.outcome === 'refused') throw new Error(result.errors[0]?.detail)
  console.log(result.course.code, result.outcome)
}

const events = await client.GET('/events')
if (events.error) throw new Error(events.error.detail)
for (const event of events.data.items) {
  // The type of the event determines the types of before and after.
  if (event.type === 'student.created') console.log(event.type, event.after?.fields.length)
  if (event.type === 'enrollment.enrolled') console.log(event.type, event.after.status)
}

const refused = await client.GET('/students/{student_id}', { params: { path: { student_id: 99 } } })
console.log(refused.error?.code)
