// Package config is the agent's configuration file: its types, strict decoding,
// defaults and validation.
//
// The file is YAML. A key that is not known, a key that appears twice and a
// value of the wrong type are errors that name the line. What [Load] returns has
// passed every check that needs no network, no TPM and no other file than the
// ones it names; a broken file never yields half a configuration.
//
// [ImportAppSettings] makes an identity from an app's settings for
// Microsoft.Identity.Web, in the forms that .NET reads. What it writes is what [Parse]
// accepts; secrets in those settings are neither used nor repeated.
//
// The file decides who may have which tokens, so only root and the user that runs the
// agent may be able to write or replace it; [Load] refuses it otherwise.
package config
