// Package config is the agent's configuration file: its types, strict decoding,
// defaults and validation.
//
// The file is YAML. A key that is not known, a key that appears twice and a
// value of the wrong type are errors that name the line. What [Load] returns has
// passed every check that needs no network, no TPM and no other file than the
// ones it names; a broken file never yields half a configuration.
//
// [ImportAppSettings] makes an identity of the settings that an app has for
// Microsoft.Identity.Web, in the forms that .NET takes. What it writes is what [Parse]
// accepts; secrets in those settings are neither used nor repeated.
//
// The file decides who may have which tokens, so nobody but root and the user that
// runs the agent may be able to write it or to put another one in its place; [Load]
// refuses it otherwise.
package config
