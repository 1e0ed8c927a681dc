// Package clients holds tests with programs' own token libraries: MSAL for Go and the Azure SDK's
// azidentity, MSAL for JavaScript, and the Azure SDK for JavaScript, Python and .NET, as they are
// released; and with whole programs that nobody here wrote, unmodified under keyagent exec. Run
// counts their cases.
//
// They are written by Microsoft for the services that package simulator doubles and for the
// endpoint that the agent doubles. Where they work, the doubles agree with the originals in all
// that these libraries depend on; and where we are wrong, these tests do not share our mistake. It
// is a module of its own, so that nothing of the libraries reaches the agent, its tests or an app.
package clients
