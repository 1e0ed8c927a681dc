// Package simulator is a Confidential VM and the Azure around it, on one machine without network: a
// TPM in Azure's layout behind a Unix socket, and on loopback the instance metadata service, the
// attestation service, the token endpoint of Microsoft Entra and a web API.
//
//	keyagent ──unix──► vtpm        AK and HCL report as on Azure, under a simulated AMD root
//	    │    ──http──► imds        getplatformmetadata, issuecredential, managed identity v1, THIM
//	    │    ──https─► maa         AzureGuest: verifies the evidence with attest.Verify
//	    │    ──mTLS──► entra       mtlsauth: takes certificates of imds, and those of an application
//	    │    ──https─► entra       login: takes an application's assertions
//	    └──────────────► (token) ─► resource, over mutual TLS if the token is bound
//
// The tenant has two applications: app-fic trusts the VM's user-assigned identity; app-cert has a
// certificate once one is uploaded.
//
// It is a test double that behaves like the real thing, also when provoked: strict where production
// is strict, with faults by name (package fault) and a record of every request (package journal).
// It stands outside of the product: no production package imports it, and its services define their
// own wire types, so that a misreading of the protocol cannot hide by being on both sides.
//
// # State
//
// Everything lives and dies with the process: authorities, ids, keys, the TPM's seeds and NV. A
// second process is another VM in another tenant; a restart of azuresim in the same directory is a
// new machine, too. The state directory of an agent there belongs to the earlier machine, and is
// moved away, to state.old-1 and so on. One process can hold one platform at a time, since the TPM
// simulator exists once per process.
//
// # Time
//
// All services take the time from one [Clock], which can be advanced. Clients have clocks of their
// own: after an advance, new tokens and certificates begin to be valid in a client's future, and a
// client that checks this refuses it.
package simulator
