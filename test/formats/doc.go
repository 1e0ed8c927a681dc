// Package formats holds a test with a foreign reader of what keyagent verify writes: Project
// Veraison's library for EAT attestation results, as it is released. It is a module of its own, so
// that what the library brings reaches neither the agent nor its tests.
package formats
