// Package token turns evidence into what an issuer of credentials asks for: an attestation token.
//
// [AzureGuest] gets one from Microsoft Azure Attestation. A token says nothing about one request
// and lives for hours, so it is kept and handed out again until five minutes before it expires.
// However many callers wait, one of them does the work: making evidence occupies the TPM for
// seconds. A token that its reader did not accept is given up with Discard, also while it is still
// being fetched.
//
// [None] is the provider for platforms where no attestation is configured.
//
// Tokens are kept in memory only. The issuer of credentials decides which of them it accepts, and
// for what.
package token
