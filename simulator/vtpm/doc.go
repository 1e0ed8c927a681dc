// Package vtpm is a virtual TPM 2.0 on a Unix socket, for tests and the demo: Microsoft's reference
// TPM (go-tpm-tools' simulator, which needs cgo), with what a Linux machine and an Azure
// Confidential VM put around it.
//
//	client ──┐
//	client ──┼─ Unix socket, raw commands ─▶ guest's view ─▶ one TPM, one command at a time
//	client ──┘                                 │
//	                                           ├─ platform hierarchy closed
//	                                           ├─ HCL report at NV 0x01400001
//	                                           └─ objects and sessions of each connection apart
//
// As with the resource manager of a kernel, each connection has the slots for loaded objects and
// sessions to itself: it sees its own only, has all of the TPM's slots for them, three of each, and
// what it leaves is flushed when it closes, however it closes. When another connection has its
// turn, they are put aside by TPM2_ContextSave, and come back before the connection's next command.
// Handles of objects are therefore the connection's own; a session's is the TPM's. A session that
// its client has saved outlives the connection. With [Config].Shared nothing is put aside, and all
// connections together have the TPM's slots.
//
// With [Config].Azure the TPM is laid out as the paravisor of a Confidential VM does it:
//
//	0x81000001  storage root key, RSA-2048, TCG template
//	0x81000003  attestation key, RSA-2048, restricted, RSASSA with SHA-256, a primary of the
//	            endorsement hierarchy; evicted and made again at each boot, so that nothing planted
//	            there survives one
//	0x01400001  HCL report, 2600 bytes, owner read; a read at offset 0 makes a new one. It is
//	            answered here: the reference TPM cannot hold more than 2048 bytes in an index
//	0x01400002  user data for the report, 64 bytes, made by the guest
//	0x01C101D0  certificate of the attestation key, in real NV
//
// With [Config].Boot the registers of all banks are extended at each start as the log has it.
//
// The platform hierarchy is closed to clients. [TPM.Reset] is a reboot: seeds and NV stay,
// everything else goes.
//
// What always holds: there is one TPM per process, as the reference code keeps its state in C
// globals; a second [Start] waits for the first TPM's Close.
//
// Sources: TPM 2.0 Library, Parts 2 and 3, revision 1.59; Linux drivers/char/tpm/tpm2-space.c;
// observed Azure Confidential VMs; OpenVMM's vTPM (openhcl).
package vtpm
