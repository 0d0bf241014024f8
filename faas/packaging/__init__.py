"""From what users write to what nodes run: settings, bundles, dependency layers, the content store."""
