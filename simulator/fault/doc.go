// Package fault makes a service of the simulated platform misbehave, by the name of an operation
// ("operation" in JSON).
//
// A fault acts instead of the service (status, reset, body) or before it (delay); the service
// itself knows nothing of it. Faults of one operation act in the order in which they were added,
// each for its count of requests, or until cleared if the count is 0.
//
//	{"operation":"imds.issuecredential","kind":"status","status":500,"count":2}
//	{"operation":"entra.mtls.token","kind":"status","status":429,"headers":{"Retry-After":"7"},"count":1}
//	{"operation":"maa.attest","kind":"delay","delay":"2s"}
//	{"operation":"imds.getplatformmetadata","kind":"reset"}
//	{"operation":"entra.mtls.token","kind":"body","body":"<html>proxy login</html>"}
package fault
