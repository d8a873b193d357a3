"""The whole graph in one process, without Ray: for notebooks and tests.

`stages.local_stages` loads every model of a catalogue and returns the stages that the pipeline calls, so that a text
becomes a PNG file with neither a cluster nor a server:

    async def draw(prompt: str, file: Path) -> None:
        catalogue = read_catalogue().only(["tiny-sdxl"])
        async with local_stages(catalogue) as stages:
            ...  # run the pipeline with these stages and write the image's bytes to the file

Each stage is a class of its own, and the deployments serve these same classes, so both make the same images. Only
this package and `deployments` import both the pipeline and the engine. Nothing is imported here, so that a replica
imports the libraries of its own stage only.
"""
